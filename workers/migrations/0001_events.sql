-- The one table of events.
-- body: the client's bytes as they came: evidence, export, replay. `fields` forgets nulls and key order.
-- fields: every custom field columnar, computed from body; a query reads only what it names.
-- Partitioned by the server's clock, never the client's: one insert whose events span 101 months fails.
-- The sort key serves "one project, one event name, a stretch of time", which is what queries ask.
-- The deduplication window must outlive the longest pause of a drain; it costs nothing measurable.
-- fsync: an acknowledged row has left the stream, so the disk must have it.
CREATE TABLE IF NOT EXISTS events
(
    project_id LowCardinality(String),
    event_name LowCardinality(String),
    event_time DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
    time_recorded DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
    unique_req_id FixedString(16) CODEC(ZSTD(1)),
    customer_identifier String CODEC(ZSTD(1)),
    event_id String CODEC(ZSTD(1)),
    page_url Nullable(String) CODEC(ZSTD(1)),
    referrer Nullable(String) CODEC(ZSTD(1)),
    utm_source LowCardinality(Nullable(String)),
    utm_medium LowCardinality(Nullable(String)),
    utm_campaign LowCardinality(Nullable(String)),
    utm_term LowCardinality(Nullable(String)),
    utm_content LowCardinality(Nullable(String)),
    ip_country LowCardinality(Nullable(String)),
    ip_region LowCardinality(Nullable(String)),
    ip_city LowCardinality(Nullable(String)),
    browser_name LowCardinality(Nullable(String)),
    browser_version LowCardinality(Nullable(String)),
    os_name LowCardinality(Nullable(String)),
    os_version LowCardinality(Nullable(String)),
    device_type LowCardinality(Nullable(String)),
    is_bot Nullable(Bool),
    user_agent LowCardinality(Nullable(String)),
    body String CODEC(ZSTD(1)),
    fields JSON(
        max_dynamic_paths = 256,
        SKIP event_name, SKIP timestamp, SKIP customer_identifier, SKIP event_id,
        SKIP page_url, SKIP referrer,
        SKIP utm_source, SKIP utm_medium, SKIP utm_campaign, SKIP utm_term, SKIP utm_content
    ) MATERIALIZED body CODEC(ZSTD(1)),
    INDEX event_time_range event_time TYPE minmax GRANULARITY 1,
    INDEX time_recorded_range time_recorded TYPE minmax GRANULARITY 1
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(time_recorded)
ORDER BY (project_id, event_name, event_time)
SETTINGS
    non_replicated_deduplication_window = 100000,
    fsync_after_insert = 1,
    fsync_part_directory = 1,
    min_rows_to_fsync_after_merge = 1,
    min_compressed_bytes_to_fsync_after_merge = 1
