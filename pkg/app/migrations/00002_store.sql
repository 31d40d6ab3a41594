-- +goose Up

-- What clients sent, until its job has ended: of those that wait the sum of bytes is bounded (APP_MAX_WAITING). body is null between asking
-- for room and the arrival of the bytes.
create table app_uploads (
    job     text primary key,
    bytes   integer not null,
    body    bytea,
    expires timestamptz not null
);

-- What came of jobs, in place of their uploads.
create table app_results (
    job          text primary key,
    content_type text not null,
    width        integer not null, -- 0: no image
    height       integer not null,
    body         bytea not null,
    expires      timestamptz not null
);

-- Images are compressed already: trying again costs a core and gains nothing.
alter table app_uploads alter column body set storage external;
alter table app_results alter column body set storage external;

create index app_uploads_expires on app_uploads (expires);
create index app_results_expires on app_results (expires);
