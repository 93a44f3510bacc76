-- What wrk sends: the bodies in the file BODIES, one a line, in turn, with the key in KEY.
-- Requests are put together before the run, so that sending costs the same whatever they hold.

local requests = {}
local turn = 0

local function next_request()
  turn = turn % #requests + 1
  return requests[turn]
end

function init(arguments)
  local bodies = {}
  for line in io.lines(os.getenv("BODIES")) do bodies[#bodies + 1] = line end
  wrk.method = "POST"
  wrk.headers["content-type"] = "application/json"
  wrk.headers["x-eventbunker-write-key"] = os.getenv("KEY")
  wrk.body = bodies[1]
  if #bodies > 1 then
    for _, body in ipairs(bodies) do requests[#requests + 1] = wrk.format(nil, nil, nil, body) end
    request = next_request -- else wrk sends the one body by itself, without asking Lua
  end
end

-- One line of JSON, for bench/wrk.py.
function done(summary, latency, rates)
  local errors = summary.errors
  print(string.format(
    'RESULT {"requests": %d, "bad": %d, "broken": %d, "microseconds": %d, "p50": %d, "p99": %d, "worst": %d}',
    summary.requests, errors.status, errors.connect + errors.read + errors.write + errors.timeout,
    summary.duration, latency:percentile(50), latency:percentile(99), latency.max
  ))
end
