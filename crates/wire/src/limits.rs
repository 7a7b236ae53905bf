//! Every limit, in one place. Nothing else in Shoal names a bound on what comes from outside.

/// One data-channel or WebSocket message; bigger frames travel in pieces of this size.
pub const PIECE_BYTES_MAX: usize = 16 * 1024;
/// One frame between peers, after its pieces are joined.
pub const FRAME_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of a blob in one answer.
pub const BLOB_RANGE_BYTES_MAX: usize = PIECE_BYTES_MAX - 256;
/// A blob: an update, a checkpoint, a chunk of data.
pub const BLOB_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Unanswered range requests to one peer.
pub const RANGES_IN_FLIGHT_MAX: usize = 32;
/// A signed message between peers.
pub const MESSAGE_BYTES_MAX: usize = 256 * 1024;
pub const MANIFEST_BYTES_MAX: usize = 256 * 1024;
pub const CERTIFICATE_BYTES_MAX: usize = 512 * 1024;
/// Certificates in one answer to a peer that is behind.
pub const CERTIFICATES_IN_ANSWER_MAX: usize = 16;
/// Members of a roster (groups and committees for more come with a later version of the protocol).
pub const ROSTER_MAX: usize = 17;
/// Envelopes that one peer can have remembered in one round.
pub const MESSAGES_PER_PEER_MAX: usize = 256;
/// Requests to join that are remembered, whoever they are from.
pub const JOINS_MAX: usize = 64;
/// Envelopes of one round that a peer can know of.
pub const ENVELOPES_MAX: usize = 8192;
/// Bytes of what one peer can have remembered in one round.
pub const POOL_BYTES_PER_PEER_MAX: usize = 1024 * 1024;
/// Directly linked peers.
pub const LINKS_MAX: usize = 16;
/// A session description or candidate.
pub const SIGNAL_BYTES_MAX: usize = 16 * 1024;
/// One WebSocket message between a client and the relay.
pub const RELAY_MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// Clients in one room of a relay.
pub const ROOM_PEERS_MAX: usize = 64;
/// Tokens in one training batch.
pub const BATCH_TOKENS_MAX: usize = 1 << 22;
/// Header of a safetensors file.
pub const SAFETENSORS_HEADER_BYTES_MAX: usize = 1024 * 1024;
