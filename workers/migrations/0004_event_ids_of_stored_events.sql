-- The ids of events that an earlier version stored, so that their copies are recognised from the first batch.
-- The digest is that of workers/rows.py; a second run is merged away.
INSERT INTO event_ids (key, check, project_id, time_recorded, unique_req_id)
SELECT
    reinterpretAsUInt64(substring(SHA256(concat(project_id, '\0', event_id)) AS digest, 1, 8)),
    reinterpretAsUInt64(substring(digest, 9, 8)),
    project_id,
    time_recorded,
    unique_req_id
FROM events
WHERE event_id != '' AND time_recorded > now64(3) - INTERVAL 15 DAY
SETTINGS max_partitions_per_insert_block = 0
