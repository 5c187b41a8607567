"""The partner API on Starlette: parse, call, answer; no rules of its own."""
