-- Sends the requests of a file in turn, one per line: path, then headers as name, value, …, separated by tabs.
-- Says at the end, in one line of JSON, what was answered.
local requests, turn = {}, 0

function init(args)
  for line in io.lines(args[1]) do
    local parts = {}
    for part in string.gmatch(line, '[^\t]+') do parts[#parts + 1] = part end
    local headers = {}
    for i = 2, #parts, 2 do headers[parts[i]] = parts[i + 1] end
    requests[#requests + 1] = wrk.format('GET', parts[1], headers)
  end
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    'wrk: {"requests":%d,"us":%d,"bytes":%d,"refused":%d,"broken":%d,"p50Us":%d,"p99Us":%d}\n',
    summary.requests, summary.duration, summary.bytes, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
