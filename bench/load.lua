-- Requests for wrk, as many clients as it has, without a pause unless PAUSE_MS says how long one waits, on average.
-- METHOD and ROUTE: what is asked. BODIES: a file with a body a line, sent in turn. PREFER: a Prefer header.
-- COUNT=1: counts answers by what they are, which costs wrk some time. Prints one line of JSON at the end.
local method = os.getenv("METHOD") or "GET"
local route = os.getenv("ROUTE") or "/"
local headers = { Host = "127.0.0.1" }
local requests = {}
local at = 0

function init(args)
  if (os.getenv("PREFER") or "") ~= "" then headers["Prefer"] = os.getenv("PREFER") end
  local bodies = os.getenv("BODIES")
  if bodies then
    headers["Content-Type"] = os.getenv("CONTENT_TYPE") or "application/json"
    for body in io.lines(bodies) do table.insert(requests, wrk.format(method, route, headers, body)) end
  else
    table.insert(requests, wrk.format(method, route, headers))
  end
  math.randomseed(tonumber(os.getenv("SEED") or "1"))
  at = math.random(0, #requests - 1)
end

function request()
  at = at % #requests + 1
  return requests[at]
end

local pause = tonumber(os.getenv("PAUSE_MS") or "0")
if pause > 0 then
  function delay() return math.random(0, 2 * pause) end
end

local threads = {}
function setup(thread) table.insert(threads, thread) end
accepted, refused, other = 0, 0, 0
if os.getenv("COUNT") then
  function response(status, headers)
    if status == 201 then accepted = accepted + 1
    elseif status == 503 and headers["retry-after"] then refused = refused + 1
    else other = other + 1 end
  end
end

function done(summary, latency)
  local sums = { accepted = 0, refused = 0, other = 0 }
  for _, thread in ipairs(threads) do
    for name in pairs(sums) do sums[name] = sums[name] + thread:get(name) end
  end
  local errors = summary.errors
  io.write(string.format(
    '\n{"seconds": %f, "answers": %d, "not_2xx": %d, "broken": %d, "p50_ms": %f, "p99_ms": %f, "max_ms": %f,'
    .. ' "accepted": %d, "refused": %d, "other": %d}\n',
    summary.duration / 1e6, summary.requests, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3,
    sums.accepted, sums.refused, sums.other))
end
