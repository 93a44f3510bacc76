-- What became of events that have no row in `events`: duplicates, and dead letters that were purged.
-- For receipts, which a key that is bound to a customer may ask for that customer's events alone. Written before the stream forgets the event, possibly twice: the engine keeps one.
CREATE TABLE IF NOT EXISTS fates
(
    unique_req_id FixedString(16) CODEC(ZSTD(1)),
    project_id LowCardinality(String),
    customer_identifier String CODEC(ZSTD(1)),
    fate LowCardinality(String),
    detail String CODEC(ZSTD(1)),
    time_recorded DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
    settled_at DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1))
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(time_recorded)
ORDER BY unique_req_id
TTL toDateTime(settled_at) + INTERVAL 30 DAY
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
