//! Scripts about the lease: each compares and changes in one step.

/// Takes the lease if nobody has it, and counts an epoch above `ARGV[3]`. KEYS: the lease, the epoch;
/// ARGV: the owner, milliseconds, the highest known epoch. Returns the epoch and the time in
/// milliseconds since 1970; or 0, and how long the other's lease lasts (-1: it has no end).
pub(super) const ACQUIRE: &str = "
if not redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then
  return {0, redis.call('PTTL', KEYS[1])}
end
local epoch = redis.call('INCR', KEYS[2])
if epoch <= tonumber(ARGV[3]) then
  epoch = tonumber(ARGV[3]) + 1
  redis.call('SET', KEYS[2], string.format('%.0f', epoch))
end
local now = redis.call('TIME')
return {epoch, now[1] * 1000 + math.floor(now[2] / 1000)}";

/// Renews the lease and publishes a heartbeat with the time, if the lease is the owner's. KEYS: the
/// lease; ARGV: the owner, milliseconds, the channel, the heartbeat. Returns 1 or 0.
pub(super) const RENEW: &str = "
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
local now = redis.call('TIME')
local millis = string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000))
redis.call('PUBLISH', ARGV[3], millis .. ' ' .. ARGV[4])
return 1";

/// Deletes the lease if it is the owner's, and publishes a heartbeat, if there is one. KEYS: the
/// lease; ARGV: the owner, the channel, the heartbeat. Returns 1 or 0.
pub(super) const RELEASE: &str = "
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
if ARGV[3] ~= '' then
  local now = redis.call('TIME')
  local millis = string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000))
  redis.call('PUBLISH', ARGV[2], millis .. ' ' .. ARGV[3])
end
return 1";

/// Pushes an event if the lease is the owner's. KEYS: the lease, the list, the epoch; ARGV: the owner,
/// the event. Returns the list's length; or 0, and the current epoch.
pub(super) const PUSH_EVENT: &str = "
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return {0, tonumber(redis.call('GET', KEYS[3]) or '0') or 0}
end
return {redis.call('LPUSH', KEYS[2], ARGV[2]), 0}";
