-- wrk sends the requests of the file that REQUESTS names, in turn, byte for byte. They are separated
-- by a NUL. At the end it prints what it counted, in one line of JSON.

local requests = {}
local at = 0

function init()
  local file = assert(io.open(os.getenv("REQUESTS"), "rb"))
  for request in file:read("*a"):gmatch("[^%z]+") do
    requests[#requests + 1] = request
  end
  file:close()
end

function request()
  at = at % #requests + 1
  return requests[at]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests":%d,"microseconds":%d,"bytes":%d,"p50":%d,"p99":%d,"notOk":%d,"socketErrors":%d}\n',
    summary.requests, summary.duration, summary.bytes,
    latency:percentile(50), latency:percentile(99),
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
