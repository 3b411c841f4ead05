-- Sends the requests of the file REQUESTS one after the other, again and again. Each line is a
-- method, a path and a body, in which COUNT stands for a number that no other request has.
local requests = {}
for line in io.lines(os.getenv("REQUESTS")) do
  local method, path, body = line:match("^(%S+) (%S+) (.*)$")
  table.insert(requests, { method = method, path = path, body = body })
end
local headers = {
  ["Authorization"] = "Bearer " .. os.getenv("TOKEN"),
  ["Content-Type"] = "application/json",
}
local count = os.time() * 1000

function request()
  count = count + 1
  local next = requests[count % #requests + 1]
  return wrk.format(next.method, next.path, headers, (next.body:gsub("COUNT", count)))
end

function done(summary, latency)
  local failed = summary.errors
  io.write(string.format(
    '\n{"rate": %f, "p99": %f, "errors": %d}\n',
    summary.requests / summary.duration * 1e6,
    latency:percentile(99) / 1000,
    failed.connect + failed.read + failed.write + failed.status + failed.timeout
  ))
end
