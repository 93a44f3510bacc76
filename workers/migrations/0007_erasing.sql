-- The rows that one round of erasing removes, by their ids: chosen and counted before anything is deleted, so that
-- the ledger follows exactly, and no statement that deletes holds a client's text (workers/erase_round.py).
CREATE TABLE IF NOT EXISTS erasing
(
    round UInt64,
    source LowCardinality(String),
    erasure_id String CODEC(ZSTD(1)),
    unique_req_id FixedString(16),
    project_id LowCardinality(String),
    time_recorded DateTime64(3, 'UTC')
)
ENGINE = MergeTree
PARTITION BY round
ORDER BY (source, unique_req_id)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
