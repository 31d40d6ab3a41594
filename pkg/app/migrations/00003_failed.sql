-- +goose Up

-- When the job of an upload died. The upload stays for a retry until expires, unless its room is wanted: the oldest goes first.
alter table app_uploads add column failed timestamptz;
