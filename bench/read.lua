-- Load of one wrk thread: KV v2 reads of random keys out of `count`. Counts what is not 200.
-- Arguments: path up to the key, token, count, seed.

local head, tail, count
bad, good = 0, 0

local threads = {}
function setup(thread) table.insert(threads, thread) end

function init(args)
  count = tonumber(args[3])
  math.randomseed(tonumber(args[4]))
  local host = wrk.host .. ":" .. wrk.port
  head = "GET " .. args[1]
  tail = " HTTP/1.1\r\nHost: " .. host .. "\r\nX-Vault-Token: " .. args[2] .. "\r\nX-Vault-Request: true\r\n\r\n"
end

function request()
  return head .. string.format("%07d", math.random(count) - 1) .. tail
end

function response(status)
  if status == 200 then good = good + 1 else bad = bad + 1 end
end

function done(summary, latency)
  local total_good, total_bad = 0, 0
  for _, thread in ipairs(threads) do
    total_good = total_good + thread:get("good")
    total_bad = total_bad + thread:get("bad")
  end
  local e = summary.errors
  print(string.format(
    '\nRESULT {"good":%d,"bad":%d,"socket_errors":%d,"duration_us":%d,"p50_us":%d,"p99_us":%d}',
    total_good, total_bad, e.connect + e.read + e.write + e.timeout, summary.duration,
    latency:percentile(50), latency:percentile(99)))
end
