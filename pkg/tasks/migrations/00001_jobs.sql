-- +goose Up

-- Jobs that were enqueued in a transaction and are not in Redis yet. A runner moves them there and deletes them.
create table tasks_outbox (
    seq       bigint generated always as identity primary key,
    namespace text not null,
    id        text not null,
    record    bytea not null,  -- as Redis will keep it: record.go
    due       text not null,   -- '' now, '@ms' at a time, '+ms' after created
    created   timestamptz not null default clock_timestamp()
-- It is always almost empty: dead rows are most of it, and each look passes over them.
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- Ends of jobs, for when Redis has forgotten them.
create table tasks_archive (
    namespace text not null,
    id        text not null,
    name      text not null,
    queue     text not null,
    state     text not null,      -- done, dead, cancelled, expired
    priority  smallint not null,
    attempt   integer not null,   -- attempts that ended
    max       integer not null,
    crashes   integer not null,
    postponed integer not null,
    enqueued  timestamptz,        -- null: not known
    started   timestamptz,        -- the last attempt; null: never
    finished  timestamptz,
    error     text not null,
    result    bytea,
    stored    timestamptz not null default clock_timestamp(), -- by this server's clock, unlike all above
    primary key (namespace, id)
);
create index tasks_archive_stored on tasks_archive (stored);

-- Effects that were made: a handler that runs again finds here that it made them.
create table tasks_inbox (
    namespace text not null,
    id        text not null,      -- of the job
    effect    text not null,
    made      timestamptz not null default clock_timestamp(),
    primary key (namespace, id, effect)
);
create index tasks_inbox_made on tasks_inbox (made);
