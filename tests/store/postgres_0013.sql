-- The schema of revision 0013 on PostgreSQL, as that version of the program made it. For the test of upgrades.

CREATE TABLE account_declarations (
	custodian TEXT COLLATE "C" NOT NULL,
	fingerprint TEXT COLLATE "C" NOT NULL,
	same_as TEXT COLLATE "C" NOT NULL,
	evidence TEXT COLLATE "C" NOT NULL,
	at BIGINT NOT NULL,
	CONSTRAINT pk_account_declarations PRIMARY KEY (custodian, fingerprint)
);

CREATE TABLE account_locks (
	custodian TEXT COLLATE "C" NOT NULL,
	account_type TEXT COLLATE "C" NOT NULL,
	account_id TEXT COLLATE "C" NOT NULL,
	execution_id TEXT COLLATE "C" NOT NULL,
	taken_at BIGINT NOT NULL,
	CONSTRAINT pk_account_locks PRIMARY KEY (custodian, account_type, account_id)
);

CREATE INDEX ix_account_locks_execution ON account_locks (execution_id);

CREATE TABLE api_keys (
	id TEXT COLLATE "C" NOT NULL,
	org TEXT COLLATE "C",
	mode TEXT COLLATE "C" NOT NULL,
	digest TEXT COLLATE "C" NOT NULL,
	hint TEXT COLLATE "C" NOT NULL,
	created_at BIGINT NOT NULL,
	revoked_at BIGINT,
	name TEXT COLLATE "C",
	owner TEXT COLLATE "C",
	scopes TEXT COLLATE "C" DEFAULT '[]' NOT NULL,
	networks TEXT COLLATE "C" DEFAULT '[]' NOT NULL,
	expires_at BIGINT,
	last_used_at BIGINT,
	CONSTRAINT pk_api_keys PRIMARY KEY (id),
	CONSTRAINT uq_api_keys_digest UNIQUE (digest)
);

CREATE TABLE audit_log (
	id TEXT COLLATE "C" NOT NULL,
	at BIGINT NOT NULL,
	actor TEXT COLLATE "C" NOT NULL,
	act TEXT COLLATE "C" NOT NULL,
	subject TEXT COLLATE "C" NOT NULL,
	detail TEXT COLLATE "C" NOT NULL,
	org TEXT COLLATE "C" NOT NULL,
	number BIGINT NOT NULL,
	before TEXT COLLATE "C",
	after TEXT COLLATE "C",
	request_id TEXT COLLATE "C",
	previous TEXT COLLATE "C" NOT NULL,
	hash TEXT COLLATE "C" NOT NULL,
	CONSTRAINT pk_audit_log PRIMARY KEY (id),
	CONSTRAINT uq_audit_log_org_number UNIQUE (org, number)
);

CREATE INDEX ix_audit_log_subject ON audit_log (subject, id);

CREATE TABLE batches (
	id TEXT COLLATE "C" NOT NULL,
	org TEXT COLLATE "C" NOT NULL,
	mode TEXT COLLATE "C" NOT NULL,
	custodian TEXT COLLATE "C" NOT NULL,
	account TEXT COLLATE "C" NOT NULL,
	native BIGINT NOT NULL,
	init_method TEXT COLLATE "C" NOT NULL,
	reference TEXT COLLATE "C",
	metadata TEXT COLLATE "C" NOT NULL,
	state TEXT COLLATE "C" NOT NULL,
	items BIGINT NOT NULL,
	worked_off BIGINT NOT NULL,
	failure TEXT COLLATE "C",
	created_at BIGINT NOT NULL,
	updated_at BIGINT NOT NULL,
	expires_at BIGINT NOT NULL,
	executed_at BIGINT,
	cancel_at BIGINT,
	funds_until BIGINT,
	finalized_at BIGINT,
	CONSTRAINT pk_batches PRIMARY KEY (id)
);

CREATE INDEX ix_batches_org_mode_created ON batches (org, mode, created_at, id);

CREATE INDEX ix_batches_state ON batches (state, executed_at);

CREATE TABLE clocks (
	clock_id TEXT COLLATE "C" NOT NULL,
	"offset" BIGINT NOT NULL,
	first_at BIGINT NOT NULL,
	CONSTRAINT pk_clocks PRIMARY KEY (clock_id)
);

CREATE TABLE endpoints (
	id TEXT COLLATE "C" NOT NULL,
	org TEXT COLLATE "C" NOT NULL,
	mode TEXT COLLATE "C" NOT NULL,
	url TEXT COLLATE "C" NOT NULL,
	description TEXT COLLATE "C",
	event_types TEXT COLLATE "C" NOT NULL,
	secret BYTEA NOT NULL,
	status TEXT COLLATE "C" NOT NULL,
	created_at BIGINT NOT NULL,
	deleted_at BIGINT,
	headers TEXT COLLATE "C" DEFAULT '{}' NOT NULL,
	ed25519 BIGINT DEFAULT '0' NOT NULL,
	sealed_headers BYTEA,
	rate_limit_per_second BIGINT DEFAULT '10' NOT NULL,
	disabled_reason TEXT COLLATE "C",
	disabled_at BIGINT,
	failing_since BIGINT,
	failing_twice BIGINT DEFAULT '0' NOT NULL,
	exhausted BIGINT DEFAULT '0' NOT NULL,
	warned_at BIGINT,
	CONSTRAINT pk_endpoints PRIMARY KEY (id)
);

CREATE INDEX ix_endpoints_org_mode ON endpoints (org, mode) WHERE deleted_at IS NULL;

CREATE TABLE events (
	position BIGSERIAL NOT NULL,
	id TEXT COLLATE "C" NOT NULL,
	org TEXT COLLATE "C" NOT NULL,
	mode TEXT COLLATE "C" NOT NULL,
	type TEXT COLLATE "C" NOT NULL,
	payout_id TEXT COLLATE "C",
	sequence BIGINT,
	body BYTEA NOT NULL,
	created_at BIGINT NOT NULL,
	CONSTRAINT pk_events PRIMARY KEY (position),
	CONSTRAINT uq_events_payout_id_sequence UNIQUE (payout_id, sequence),
	CONSTRAINT uq_events_id UNIQUE (id)
);

CREATE INDEX ix_events_org_mode_position ON events (org, mode, position);

CREATE TABLE gateways (
	id TEXT COLLATE "C" NOT NULL,
	counter BIGINT NOT NULL,
	clock_id TEXT COLLATE "C" NOT NULL,
	elapsed BIGINT NOT NULL,
	wall BIGINT NOT NULL,
	host TEXT COLLATE "C" NOT NULL,
	pid BIGINT NOT NULL,
	version TEXT COLLATE "C" NOT NULL,
	config_digest TEXT COLLATE "C" NOT NULL,
	schema_from TEXT COLLATE "C" NOT NULL,
	schema_to TEXT COLLATE "C" NOT NULL,
	gate_version BIGINT NOT NULL,
	marks BIGINT NOT NULL,
	started_at BIGINT NOT NULL,
	stopped_at BIGINT,
	CONSTRAINT pk_gateways PRIMARY KEY (id)
);

CREATE TABLE heartbeats (
	id BIGSERIAL NOT NULL,
	gateway_id TEXT COLLATE "C" NOT NULL,
	clock_id TEXT COLLATE "C" NOT NULL,
	elapsed BIGINT NOT NULL,
	wall BIGINT NOT NULL,
	marks BIGINT NOT NULL,
	CONSTRAINT pk_heartbeats PRIMARY KEY (id)
);

CREATE INDEX ix_heartbeats_marks ON heartbeats (marks, clock_id);

CREATE TABLE idempotency (
	org TEXT COLLATE "C" NOT NULL,
	mode TEXT COLLATE "C" NOT NULL,
	route TEXT COLLATE "C" NOT NULL,
	key TEXT COLLATE "C" NOT NULL,
	fingerprint TEXT COLLATE "C" NOT NULL,
	token BIGINT DEFAULT '0' NOT NULL,
	claimant TEXT COLLATE "C",
	created_id TEXT COLLATE "C",
	answer BYTEA,
	expires_at BIGINT,
	CONSTRAINT pk_idempotency PRIMARY KEY (org, mode, route, key)
);

CREATE INDEX ix_idempotency_expires ON idempotency (expires_at);

CREATE TABLE inbox (
	custodian TEXT COLLATE "C" NOT NULL,
	dedup_key TEXT COLLATE "C" NOT NULL,
	body BYTEA NOT NULL,
	state TEXT COLLATE "C" NOT NULL,
	payout_id TEXT COLLATE "C",
	received_at BIGINT NOT NULL,
	settled_at BIGINT,
	CONSTRAINT pk_inbox PRIMARY KEY (custodian, dedup_key)
);

CREATE INDEX ix_inbox_new ON inbox (received_at) WHERE state = 'new';

CREATE INDEX ix_inbox_payout ON inbox (payout_id);

CREATE INDEX ix_inbox_settled ON inbox (settled_at) WHERE state IN ('applied', 'failed');

CREATE INDEX ix_inbox_unmatched ON inbox (settled_at) WHERE state IN ('waiting', 'ignored', 'unreadable', 'unconfigured');

CREATE TABLE money_rules (
	id BIGSERIAL NOT NULL,
	digest TEXT COLLATE "C" NOT NULL,
	document TEXT COLLATE "C" NOT NULL,
	activated_at BIGINT NOT NULL,
	activated_by TEXT COLLATE "C" NOT NULL,
	CONSTRAINT pk_money_rules PRIMARY KEY (id)
);

CREATE TABLE pauses (
	id TEXT COLLATE "C" NOT NULL,
	scope TEXT COLLATE "C" NOT NULL,
	target TEXT COLLATE "C" NOT NULL,
	owner TEXT COLLATE "C" NOT NULL,
	mode TEXT COLLATE "C" NOT NULL,
	reason TEXT COLLATE "C" NOT NULL,
	actor TEXT COLLATE "C" NOT NULL,
	keep_accepting BIGINT NOT NULL,
	since BIGINT NOT NULL,
	CONSTRAINT pk_pauses PRIMARY KEY (id),
	CONSTRAINT uq_pauses_scope_target_owner_mode UNIQUE (scope, target, owner, mode)
);

CREATE TABLE quotes (
	id TEXT COLLATE "C" NOT NULL,
	org TEXT COLLATE "C" NOT NULL,
	mode TEXT COLLATE "C" NOT NULL,
	external_ref TEXT COLLATE "C" NOT NULL,
	reference TEXT COLLATE "C",
	metadata TEXT COLLATE "C" NOT NULL,
	terms TEXT COLLATE "C" NOT NULL,
	account TEXT COLLATE "C" NOT NULL,
	expires_at BIGINT NOT NULL,
	created_at BIGINT NOT NULL,
	payout_id TEXT COLLATE "C",
	CONSTRAINT pk_quotes PRIMARY KEY (id)
);

CREATE INDEX ix_quotes_unused ON quotes (expires_at) WHERE payout_id IS NULL;

CREATE TABLE spending_counters (
	id TEXT COLLATE "C" NOT NULL,
	rule TEXT COLLATE "C" NOT NULL,
	mode TEXT COLLATE "C" NOT NULL,
	"window" TEXT COLLATE "C" NOT NULL,
	count BIGINT NOT NULL,
	amount TEXT COLLATE "C" NOT NULL,
	version BIGINT NOT NULL,
	CONSTRAINT pk_spending_counters PRIMARY KEY (id)
);

CREATE INDEX ix_spending_counters_window ON spending_counters ("window");

CREATE TABLE store_state (
	id BIGSERIAL NOT NULL,
	marks BIGINT NOT NULL,
	gate_version BIGINT NOT NULL,
	frozen TEXT COLLATE "C",
	accepting BIGINT NOT NULL,
	witnessed BIGINT NOT NULL,
	CONSTRAINT pk_store_state PRIMARY KEY (id)
);

CREATE TABLE deliveries (
	position BIGINT NOT NULL,
	endpoint_id TEXT COLLATE "C" NOT NULL,
	state TEXT COLLATE "C" NOT NULL,
	attempts BIGINT NOT NULL,
	due_at BIGINT NOT NULL,
	lease_token BIGINT NOT NULL,
	settled_at BIGINT,
	trigger TEXT COLLATE "C" NOT NULL,
	plan_from BIGINT NOT NULL,
	CONSTRAINT pk_deliveries PRIMARY KEY (position, endpoint_id),
	CONSTRAINT fk_deliveries_position FOREIGN KEY(position) REFERENCES events (position),
	CONSTRAINT fk_deliveries_endpoint_id FOREIGN KEY(endpoint_id) REFERENCES endpoints (id)
);

CREATE INDEX ix_deliveries_pending ON deliveries (endpoint_id, due_at) WHERE state = 'pending';

CREATE INDEX ix_deliveries_skipped ON deliveries (endpoint_id) WHERE state = 'skipped';

CREATE TABLE executions (
	id TEXT COLLATE "C" NOT NULL,
	custodian TEXT COLLATE "C" NOT NULL,
	account TEXT COLLATE "C" NOT NULL,
	batch_id TEXT COLLATE "C",
	number BIGINT NOT NULL,
	key_seed TEXT COLLATE "C" NOT NULL,
	state TEXT COLLATE "C" NOT NULL,
	notes TEXT COLLATE "C" NOT NULL,
	rows BIGINT NOT NULL,
	open_calls BIGINT NOT NULL,
	size BIGINT NOT NULL,
	earlier BIGINT NOT NULL,
	repeat_is_safe BIGINT,
	looks BIGINT NOT NULL,
	failures BIGINT NOT NULL,
	blocked TEXT COLLATE "C",
	outcome TEXT COLLATE "C",
	refusal TEXT COLLATE "C",
	waiting_since BIGINT,
	rank BIGINT NOT NULL,
	due_at BIGINT NOT NULL,
	lease_token BIGINT NOT NULL,
	lease_owner TEXT COLLATE "C",
	lease_until BIGINT NOT NULL,
	created_at BIGINT NOT NULL,
	created_clock_id TEXT COLLATE "C" NOT NULL,
	created_elapsed BIGINT NOT NULL,
	ended_at BIGINT,
	CONSTRAINT pk_executions PRIMARY KEY (id),
	CONSTRAINT fk_executions_batch_id FOREIGN KEY(batch_id) REFERENCES batches (id)
);

CREATE INDEX ix_executions_batch ON executions (batch_id, number);

CREATE INDEX ix_executions_due ON executions (custodian, due_at) WHERE ended_at IS NULL;

CREATE TABLE inbox_refs (
	custodian TEXT COLLATE "C" NOT NULL,
	kind TEXT COLLATE "C" NOT NULL,
	value TEXT COLLATE "C" NOT NULL,
	dedup_key TEXT COLLATE "C" NOT NULL,
	CONSTRAINT pk_inbox_refs PRIMARY KEY (custodian, kind, value, dedup_key),
	CONSTRAINT fk_inbox_refs_custodian_dedup_key FOREIGN KEY(custodian, dedup_key) REFERENCES inbox (custodian, dedup_key)
);

CREATE INDEX ix_inbox_refs_webhook ON inbox_refs (custodian, dedup_key);

CREATE TABLE payouts (
	id TEXT COLLATE "C" NOT NULL,
	org TEXT COLLATE "C" NOT NULL,
	mode TEXT COLLATE "C" NOT NULL,
	quote_id TEXT COLLATE "C",
	status TEXT COLLATE "C" NOT NULL,
	sub_status TEXT COLLATE "C" NOT NULL,
	external_ref TEXT COLLATE "C" NOT NULL,
	reference TEXT COLLATE "C",
	metadata TEXT COLLATE "C" NOT NULL,
	terms TEXT COLLATE "C" NOT NULL,
	custodian TEXT COLLATE "C" NOT NULL,
	account TEXT COLLATE "C" NOT NULL,
	custodian_reference TEXT COLLATE "C",
	custodian_word TEXT COLLATE "C",
	document TEXT COLLATE "C" NOT NULL,
	failure TEXT COLLATE "C",
	funds_moved TEXT COLLATE "C",
	fees_paid_usd TEXT COLLATE "C",
	observed_at BIGINT,
	sequence BIGINT NOT NULL,
	first_answer BYTEA,
	created_at BIGINT NOT NULL,
	updated_at BIGINT NOT NULL,
	batch_id TEXT COLLATE "C",
	batch_position BIGINT,
	name TEXT COLLATE "C",
	reference_key TEXT COLLATE "C",
	erased_at BIGINT,
	returned_amount TEXT COLLATE "C",
	CONSTRAINT pk_payouts PRIMARY KEY (id),
	CONSTRAINT uq_payouts_quote_id UNIQUE (quote_id),
	CONSTRAINT fk_payouts_quote_id FOREIGN KEY(quote_id) REFERENCES quotes (id),
	CONSTRAINT fk_payouts_batch_id FOREIGN KEY(batch_id) REFERENCES batches (id)
);

CREATE INDEX ix_payouts_batch ON payouts (batch_id, batch_position);

CREATE INDEX ix_payouts_ended ON payouts (updated_at) WHERE status <> 'pending' AND status <> 'broadcast' AND erased_at IS NULL;

CREATE INDEX ix_payouts_org_mode_created ON payouts (org, mode, created_at, id);

CREATE INDEX ix_payouts_org_mode_external_ref ON payouts (org, mode, external_ref);

CREATE INDEX ix_payouts_org_mode_reference_key ON payouts (org, mode, reference_key);

CREATE INDEX ix_payouts_status ON payouts (status);

CREATE TABLE previous_secrets (
	id TEXT COLLATE "C" NOT NULL,
	endpoint_id TEXT COLLATE "C" NOT NULL,
	secret BYTEA NOT NULL,
	expires_at BIGINT NOT NULL,
	CONSTRAINT pk_previous_secrets PRIMARY KEY (id),
	CONSTRAINT fk_previous_secrets_endpoint_id FOREIGN KEY(endpoint_id) REFERENCES endpoints (id)
);

CREATE INDEX ix_previous_secrets_endpoint ON previous_secrets (endpoint_id);

CREATE TABLE recoveries (
	id TEXT COLLATE "C" NOT NULL,
	org TEXT COLLATE "C" NOT NULL,
	mode TEXT COLLATE "C" NOT NULL,
	endpoint_id TEXT COLLATE "C" NOT NULL,
	since BIGINT NOT NULL,
	until BIGINT NOT NULL,
	state TEXT COLLATE "C" NOT NULL,
	position BIGINT NOT NULL,
	looked_at BIGINT NOT NULL,
	recovered BIGINT NOT NULL,
	created_at BIGINT NOT NULL,
	finished_at BIGINT,
	CONSTRAINT pk_recoveries PRIMARY KEY (id),
	CONSTRAINT fk_recoveries_endpoint_id FOREIGN KEY(endpoint_id) REFERENCES endpoints (id)
);

CREATE INDEX ix_recoveries_state ON recoveries (state);

CREATE TABLE spending_entries (
	owner_id TEXT COLLATE "C" NOT NULL,
	counter_id TEXT COLLATE "C" NOT NULL,
	asset TEXT COLLATE "C" NOT NULL,
	count BIGINT NOT NULL,
	amount TEXT COLLATE "C" NOT NULL,
	price TEXT COLLATE "C",
	counts_amount BIGINT NOT NULL,
	destination TEXT COLLATE "C",
	CONSTRAINT pk_spending_entries PRIMARY KEY (owner_id, counter_id, asset),
	CONSTRAINT fk_spending_entries_counter_id FOREIGN KEY(counter_id) REFERENCES spending_counters (id)
);

CREATE INDEX ix_spending_entries_counter ON spending_entries (counter_id);

CREATE TABLE attention (
	payout_id TEXT COLLATE "C" NOT NULL,
	code TEXT COLLATE "C" NOT NULL,
	detail TEXT COLLATE "C" NOT NULL,
	times BIGINT NOT NULL,
	first_at BIGINT NOT NULL,
	last_at BIGINT NOT NULL,
	closed_at BIGINT,
	closed_by TEXT COLLATE "C",
	told_at BIGINT,
	CONSTRAINT pk_attention PRIMARY KEY (payout_id, code, detail),
	CONSTRAINT fk_attention_payout_id FOREIGN KEY(payout_id) REFERENCES payouts (id)
);

CREATE INDEX ix_attention_open ON attention (first_at) WHERE closed_at IS NULL;

CREATE INDEX ix_attention_untold ON attention (first_at) WHERE told_at IS NULL;

CREATE TABLE delivered_looks (
	execution_id TEXT COLLATE "C" NOT NULL,
	custodian TEXT COLLATE "C" NOT NULL,
	begun_at BIGINT NOT NULL,
	until_at BIGINT NOT NULL,
	due_at BIGINT NOT NULL,
	CONSTRAINT pk_delivered_looks PRIMARY KEY (execution_id),
	CONSTRAINT fk_delivered_looks_execution_id FOREIGN KEY(execution_id) REFERENCES executions (id)
);

CREATE INDEX ix_delivered_looks_due ON delivered_looks (custodian, due_at);

CREATE TABLE delivery_attempts (
	position BIGINT NOT NULL,
	endpoint_id TEXT COLLATE "C" NOT NULL,
	attempt BIGINT NOT NULL,
	outcome TEXT COLLATE "C" NOT NULL,
	http_status BIGINT,
	response_snippet TEXT COLLATE "C",
	started_at BIGINT NOT NULL,
	duration_ms BIGINT NOT NULL,
	next_attempt_at BIGINT,
	trigger TEXT COLLATE "C" NOT NULL,
	CONSTRAINT pk_delivery_attempts PRIMARY KEY (position, endpoint_id, attempt),
	CONSTRAINT fk_delivery_attempts_position_endpoint_id FOREIGN KEY(position, endpoint_id) REFERENCES deliveries (position, endpoint_id)
);

CREATE INDEX ix_delivery_attempts_endpoint ON delivery_attempts (endpoint_id, started_at);

CREATE TABLE evidence (
	execution_id TEXT COLLATE "C" NOT NULL,
	number BIGINT NOT NULL,
	kind TEXT COLLATE "C" NOT NULL,
	seen BIGINT NOT NULL,
	clock_id TEXT COLLATE "C" NOT NULL,
	elapsed BIGINT NOT NULL,
	wall BIGINT NOT NULL,
	fingerprint TEXT COLLATE "C" NOT NULL,
	answer TEXT COLLATE "C",
	reference TEXT COLLATE "C",
	item TEXT COLLATE "C",
	source TEXT COLLATE "C" NOT NULL,
	mark BIGINT NOT NULL,
	call_life BIGINT,
	visibility BIGINT NOT NULL,
	absence_looks BIGINT NOT NULL,
	key_life BIGINT,
	one_key BIGINT NOT NULL,
	detail TEXT COLLATE "C",
	CONSTRAINT pk_evidence PRIMARY KEY (execution_id, number),
	CONSTRAINT fk_evidence_execution_id FOREIGN KEY(execution_id) REFERENCES executions (id)
);

CREATE TABLE execution_items (
	execution_id TEXT COLLATE "C" NOT NULL,
	payout_id TEXT COLLATE "C" NOT NULL,
	position BIGINT NOT NULL,
	open BIGINT NOT NULL,
	CONSTRAINT pk_execution_items PRIMARY KEY (execution_id, payout_id),
	CONSTRAINT fk_execution_items_execution_id FOREIGN KEY(execution_id) REFERENCES executions (id),
	CONSTRAINT fk_execution_items_payout_id FOREIGN KEY(payout_id) REFERENCES payouts (id)
);

CREATE INDEX ix_execution_items_payout ON execution_items (payout_id);

CREATE UNIQUE INDEX uq_execution_items_open ON execution_items (payout_id) WHERE open = 1;

CREATE TABLE payout_hashes (
	tx_hash TEXT COLLATE "C" NOT NULL,
	payout_id TEXT COLLATE "C" NOT NULL,
	CONSTRAINT pk_payout_hashes PRIMARY KEY (tx_hash, payout_id),
	CONSTRAINT fk_payout_hashes_payout_id FOREIGN KEY(payout_id) REFERENCES payouts (id)
);

CREATE TABLE payout_returns (
	id TEXT COLLATE "C" NOT NULL,
	payout_id TEXT COLLATE "C" NOT NULL,
	custodian TEXT COLLATE "C" NOT NULL,
	custodian_id TEXT COLLATE "C",
	amount TEXT COLLATE "C" NOT NULL,
	asset TEXT COLLATE "C" NOT NULL,
	returned_at BIGINT NOT NULL,
	word TEXT COLLATE "C",
	recorded_at BIGINT NOT NULL,
	CONSTRAINT pk_payout_returns PRIMARY KEY (id),
	CONSTRAINT uq_payout_returns_custodian_custodian_id UNIQUE (custodian, custodian_id),
	CONSTRAINT fk_payout_returns_payout_id FOREIGN KEY(payout_id) REFERENCES payouts (id)
);

CREATE INDEX ix_payout_returns_payout ON payout_returns (payout_id);

CREATE TABLE refs (
	custodian TEXT COLLATE "C" NOT NULL,
	kind TEXT COLLATE "C" NOT NULL,
	value TEXT COLLATE "C" NOT NULL,
	payout_id TEXT COLLATE "C" NOT NULL,
	CONSTRAINT pk_refs PRIMARY KEY (custodian, kind, value),
	CONSTRAINT fk_refs_payout_id FOREIGN KEY(payout_id) REFERENCES payouts (id)
);

CREATE INDEX ix_refs_payout ON refs (payout_id);

CREATE TABLE store_turn ();

CREATE TABLE store_event_order ();

CREATE TABLE store_writers (
        id TEXT PRIMARY KEY, token TEXT NOT NULL, at TIMESTAMPTZ NOT NULL DEFAULT now()
    );

CREATE TABLE store_cluster (id INTEGER PRIMARY KEY CHECK (id = 1), identity TEXT NOT NULL);

CREATE TABLE alembic_version (version_num TEXT PRIMARY KEY);

CREATE FUNCTION audit_log_is_append_only() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'the audit log is append-only'; END $$;

CREATE TRIGGER audit_log_no_change BEFORE UPDATE OR DELETE ON audit_log
    FOR EACH ROW EXECUTE FUNCTION audit_log_is_append_only();

CREATE TRIGGER audit_log_no_truncate BEFORE TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION audit_log_is_append_only();

INSERT INTO store_state (id, marks, gate_version, frozen, accepting, witnessed)
    VALUES (1, 0, 2, NULL, 1, 0);

INSERT INTO alembic_version (version_num) VALUES ('0013');
