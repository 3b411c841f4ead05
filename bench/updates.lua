-- Each request writes other metadata to the next of 1,000 contacts. The environment says how one
-- contact is named in a request, since bench/others.py asks other servers in their own words.
local method = os.getenv("METHOD") or "POST"
local path = os.getenv("REQUEST_PATH") or "/api/v1/actions/update-contact"
local body = os.getenv("BODY")
  or '{"phone": "+1415555%04d", "metadata": {"lifetime_value": %d, "city": "Lyon"}}'
local headers = {
  ["Authorization"] = "Bearer bench",
  ["Content-Type"] = "application/json",
}
local count = 0

function request()
  count = count + 1
  local number = count % 1000
  return wrk.format(
    method,
    (path:gsub("NUMBER", number + 1)),
    headers,
    body:format(number, count)
  )
end

function done(summary, latency, requests)
  local failed = summary.errors
  io.write(string.format(
    '\n{"rate": %f, "median": %f, "slowest": %f, "errors": %d}\n',
    summary.requests / summary.duration * 1e6,
    latency:percentile(50) / 1000,
    latency:percentile(99) / 1000,
    failed.connect + failed.read + failed.write + failed.status + failed.timeout
  ))
end
