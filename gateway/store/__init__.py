"""The only room that speaks SQL.

`schema` names the tables, `database` runs store functions in transactions, the other modules hold
the statements, built once, and the functions that use them. A store function takes a transaction
and knows no engine.
"""
