-- Which event ids were stored lately: what the drain asks before it stores a batch (workers/event_ids.py).
-- Written after the rows and before the acknowledgement, by the drain; a repeated write is merged away.
-- key, check: the two halves of a digest of project and id (workers/rows.py). Sorted by a digest and not by
-- time, so that one id is one granule of each part. Small granules: a look-up reads a whole one for each id.
-- No compression for the digests: they have none, and a look-up reads little else.
-- A table of its own and not a projection of `events`: events without an id cost nothing, events that have
-- one cost only as long as they can be asked for, and a day is one part the day after (docs/performance.md).
-- Kept for 15 days: copies are at most 7 days apart, and events recorded longer ago than 7 days when they are
-- drained (spools, dead letters sent again) are looked up in `events` itself. Whoever erases events erases
-- here too.
CREATE TABLE IF NOT EXISTS event_ids
(
    key UInt64 CODEC(NONE),
    check UInt64 CODEC(NONE),
    project_id LowCardinality(String),
    time_recorded DateTime64(3, 'UTC') CODEC(ZSTD(1)),
    unique_req_id FixedString(16) CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree
PARTITION BY toDate(time_recorded)
ORDER BY (key, check, time_recorded, unique_req_id)
PRIMARY KEY key
TTL toDateTime(time_recorded) + INTERVAL 15 DAY
SETTINGS
    index_granularity = 256,
    min_compress_block_size = 4096,
    max_compress_block_size = 65536,
    ttl_only_drop_parts = 1,
    min_age_to_force_merge_seconds = 3600,
    min_age_to_force_merge_on_partition_only = 1,
    fsync_after_insert = 1,
    fsync_part_directory = 1,
    min_rows_to_fsync_after_merge = 1,
    min_compressed_bytes_to_fsync_after_merge = 1
