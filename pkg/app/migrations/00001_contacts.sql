-- +goose Up

-- What imports fill and exports read.
create table contacts (
    email    text primary key, -- in lower case
    name     text not null default '',
    company  text not null default '',
    imported timestamptz not null default now()
);

-- One row per import that was committed, for its job's repeats and for the report.
create table contacts_imports (
    job      text primary key,
    rows     integer not null,
    inserted integer not null,
    imported timestamptz not null default now()
);
