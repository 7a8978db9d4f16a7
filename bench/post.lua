-- Two-line claims for wrk. PAUSE_MS: about how long a client waits between an answer and its next claim, so that many
-- clients offer a load that does not depend on how fast they are answered. Prints one line of JSON at the end.
wrk.method = "POST"
wrk.path = "/claims"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Prefer"] = "return=minimal"
wrk.body = '[{"service_dttm":"2018-03-28 00:00:00","submitted_proc":"D4346","quadrant":null,"group_id":"GRP-1000",'
  .. '"subscriber_id":"3730189502","provider_npi":"1497775530","provider_fees":130.00,"allowed_fees":65.00,'
  .. '"member_co_ins":16.25,"member_co_pay":0.00},{"service_dttm":"2018-03-28 00:00:00","submitted_proc":"D4211",'
  .. '"quadrant":"UR","group_id":"GRP-1000","subscriber_id":"3730189502","provider_npi":"1497775530",'
  .. '"provider_fees":178.00,"allowed_fees":178.00,"member_co_ins":35.60,"member_co_pay":0.00}]'

local pause = tonumber(os.getenv("PAUSE_MS") or "0")
if pause > 0 then
  function delay() return math.random(0, 2 * pause) end
end

local threads = {}
function setup(thread) table.insert(threads, thread) end
accepted, refused, other = 0, 0, 0
function response(status, headers)
  if status == 201 then accepted = accepted + 1
  elseif status == 503 and headers["retry-after"] then refused = refused + 1
  else other = other + 1 end
end

function done(summary, latency)
  local sums = { accepted = 0, refused = 0, other = 0 }
  for _, thread in ipairs(threads) do
    for name in pairs(sums) do sums[name] = sums[name] + thread:get(name) end
  end
  local errors = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout
  io.write(string.format(
    '\n{"seconds": %f, "accepted": %d, "refused": %d, "other": %d, "p50_ms": %f, "p99_ms": %f}\n',
    summary.duration / 1e6, sums.accepted, sums.refused, sums.other + errors,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
