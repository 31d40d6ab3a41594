-- +goose Up

-- Whose queue and shard a job is for, so that those of one that is full do not stand before all others.
alter table tasks_outbox add column lane text not null generated always as (split_part(id, '.', 1) || '.' || split_part(id, '.', 2)) stored;
create index tasks_outbox_lane on tasks_outbox (namespace, lane, seq);
