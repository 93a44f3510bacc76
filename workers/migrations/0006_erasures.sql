-- Tombstones of erasures whose rows are not gone yet: for queries while Redis, which has them too, is away.
-- Written before an erasure is answered; removed when its rows are gone (workers/erase_round.py).
CREATE TABLE IF NOT EXISTS erasures
(
    erasure_id String,
    project_id String,
    tombstone String CODEC(ZSTD(1))
)
ENGINE = MergeTree
ORDER BY (project_id, erasure_id)
SETTINGS
    non_replicated_deduplication_window = 10000,
    fsync_after_insert = 1,
    fsync_part_directory = 1
