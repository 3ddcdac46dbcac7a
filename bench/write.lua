-- Load of one wrk thread: writes to random keys out of `count`, from templates in which @KEY@ stands for the key
-- and @VALUE@ for the value of this run and key. Counts what is not 200, and remembers the first keys that it asked for.
-- Arguments: method, path template, body template (@KEY64@ in it: key and value in base64), token, count, run, seed.

local requests, keys = {}, {}
sample, asked, bad, good = {}, 0, 0, 0
SAMPLE = 200

local threads = {}
function setup(thread) table.insert(threads, thread) end

local alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
local function base64(text)
  local out = {}
  for i = 1, #text, 3 do
    local a, b, c = text:byte(i, i + 2)
    local n = a * 65536 + (b or 0) * 256 + (c or 0)
    for k = 3, 0, -1 do
      local at = math.floor(n / 64 ^ k) % 64 + 1
      local missing = (k == 0 and not c) or (k == 1 and not b)
      table.insert(out, missing and "=" or alphabet:sub(at, at))
    end
  end
  return table.concat(out)
end

function init(args)
  local method, path, body, token = args[1], args[2], args[3], args[4]
  local count, run, seed = tonumber(args[5]), args[6], tonumber(args[7])
  math.randomseed(seed)
  local headers = { ["Content-Type"] = "application/json", ["Host"] = wrk.host .. ":" .. wrk.port }
  if token ~= "-" then headers["X-Vault-Token"] = token end
  local encode = body:find("@KEY64@", 1, true) and base64 or function(text) return text end
  for k = 1, count do
    local key = string.format("%05d", k - 1)
    local value = run .. "-" .. key .. "-"
    value = value .. string.rep("x", 256 - #value)
    local filled = body:gsub("@KEY64@", encode("bench/" .. key)):gsub("@VALUE@", encode(value))
    keys[k] = key
    requests[k] = wrk.format(method, (path:gsub("@KEY@", key)), headers, filled)
  end
end

function request()
  local k = math.random(#requests)
  asked = asked + 1
  -- wrk asks once more, before it starts, to see what a request looks like: that one is never sent
  if asked > 1 and asked <= SAMPLE + 1 then sample[asked - 1] = keys[k] end
  return requests[k]
end

function response(status)
  if status == 200 then good = good + 1 else bad = bad + 1 end
end

function done(summary, latency)
  local total_good, total_bad, first = 0, 0, {}
  for _, thread in ipairs(threads) do
    total_good = total_good + thread:get("good")
    total_bad = total_bad + thread:get("bad")
    for _, key in ipairs(thread:get("sample")) do table.insert(first, '"' .. key .. '"') end
  end
  local e = summary.errors
  print(string.format(
    '\nRESULT {"good":%d,"bad":%d,"socket_errors":%d,"duration_us":%d,"p50_us":%d,"p99_us":%d,"max_us":%d,"sample":[%s]}',
    total_good, total_bad, e.connect + e.read + e.write + e.timeout, summary.duration,
    latency:percentile(50), latency:percentile(99), latency.max, table.concat(first, ",")))
end
