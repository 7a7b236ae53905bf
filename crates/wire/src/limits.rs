//! Every limit on how much comes from outside, in one place. Waiting times stand beside what they end; what a host may
//! choose is a flag of its relay.

/// One data-channel or WebSocket message; bigger frames travel in pieces of this size.
pub const PIECE_BYTES_MAX: usize = 16 * 1024;
/// One frame between peers, after its pieces are joined.
pub const FRAME_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of a blob in one answer.
pub const BLOB_RANGE_BYTES_MAX: usize = PIECE_BYTES_MAX - 256;
/// A blob: an update, a checkpoint, a chunk of data.
pub const BLOB_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// What a peer has learnt and not sent yet: 8 bytes a parameter where a model has 4, and an update that is not settled.
pub const RESIDUAL_BYTES_MAX: u64 = 3 * BLOB_BYTES_MAX;
/// The whole text of a run, which a native peer holds in memory.
pub const TEXT_BYTES_MAX: u64 = 1024 * 1024 * 1024;
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
/// Members of a roster that works in groups.
pub const CROWD_MAX: usize = 1 << 16;
/// Members of a group, children of a node in the tree of sums, and peers that merge one part there.
pub const GROUP_MAX: usize = 16;
/// Peers that agree on a round for all.
pub const COMMITTEE_MAX: usize = 64;
/// Messages of the next round that a peer of a large run keeps, and blobs that it is told of in one frame.
pub const CROWD_EARLY_MAX: usize = 1024;
/// Envelopes that one peer can have remembered in one round.
pub const MESSAGES_PER_PEER_MAX: usize = 256;
/// Requests to join that are remembered, whoever they are from.
pub const JOINS_MAX: usize = 64;
/// Envelopes of one round that a peer can know of.
pub const ENVELOPES_MAX: usize = 8192;
/// Bytes of what one peer can have remembered in one round.
pub const POOL_BYTES_PER_PEER_MAX: usize = 1024 * 1024;
/// Views beyond its own of which a peer remembers messages.
pub const VIEWS_AHEAD_MAX: u32 = 64;
/// Messages of rounds to come that are kept of one member; their bytes are bounded as in a round.
pub const EARLY_MAX: usize = 64;
/// Blobs that a peer keeps in memory for others.
pub const CACHE_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Blobs that are read from the store for others at once.
pub const LOADS_MAX: usize = 64;
/// Bytes by which an update may exceed its codec's share of the model: headers, and tensors of a few values.
pub const UPDATE_BYTES_EXTRA: u64 = 64 * 1024;
/// One entry of a vote log: a vote with its locked proposal.
pub const ENTRY_BYTES_MAX: usize = 1024 * 1024;
/// A vote log: the views of a few rounds.
pub const VOTES_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Candidates of one side that wait for a description.
pub const CANDIDATES_HELD_MAX: usize = 64;
/// Frames that wait until the shell says that their link is open.
pub const FRAMES_HELD_MAX: usize = 16;
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
/// A name in a manifest: the run's, its host's, a source's, and a source's licence.
pub const NAME_BYTES_MAX: usize = 200;
/// A longer text in a manifest: the run's description, a source's attribution.
pub const DESCRIPTION_BYTES_MAX: usize = 4 * 1024;
/// Sources of a run's text.
pub const SOURCES_MAX: usize = 64;
/// Each duration in a manifest: a day. Longer rounds are mistakes.
pub const DURATION_MS_MAX: u32 = 24 * 3600 * 1000;
/// Why somebody proposes an amendment.
pub const REASON_BYTES_MAX: usize = 1024;
/// Chunks of a source that an amendment adds.
pub const AMENDMENT_CHUNKS_MAX: usize = 512;
/// Inner learning rates after an amendment, in 1/1024 of the recipe's.
pub const LEARNING_RATE_1024_MAX: u32 = 4 * 1024;
/// Amendments that are open at one time.
pub const AMENDMENTS_OPEN_MAX: usize = 8;
/// Amendments that one body carries.
pub const AMENDMENTS_IN_BODY_MAX: usize = 2;
/// Amendments and ballots that one body carries.
pub const CHARTER_IN_BODY_MAX: usize = 64;
/// Rounds for which a manifest may keep a vote open.
pub const OPEN_ROUNDS_MAX: u32 = 1_000_000;
/// Rounds in which an ordinary certificate may still beat a recovery.
pub const RECOVERY_WINDOW_ROUNDS_MAX: u64 = 1000;
/// Headers of a request to the relay.
pub const HEADERS_BYTES_MAX: usize = 32 * 1024;
/// Uploads that a relay holds in memory at once.
pub const UPLOADS_MAX: usize = 4;
/// Blobs that a relay holds in memory while it sends them, all together.
pub const SENDING_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Certificates in one answer of a relay.
pub const RELAY_CERTIFICATES_MAX: usize = 64;
/// Messages that may wait at a relay for one client.
pub const QUEUE_MESSAGES_MAX: usize = 4096;
/// Bytes that may wait at a relay for one client. A peer asks each other for at most half a megabyte at a time, so a
/// client that reads at all stays far below.
pub const QUEUE_BYTES_MAX: usize = 12 * 1024 * 1024;
/// Bytes that may wait at a relay for all clients together.
pub const QUEUES_BYTES_MAX: usize = 512 * 1024 * 1024;
/// A signed note: the checkpoint of a log, with signatures.
pub const NOTE_BYTES_MAX: usize = 128 * 1024;
/// Signatures under a note.
pub const NOTE_SIGNATURES_MAX: usize = 64;
/// Name of a key that signs notes.
pub const NOTE_KEY_NAME_BYTES_MAX: usize = 255;
/// Hashes of a consistency proof that a witness reads.
pub const PROOF_HASHES_MAX: usize = 63;
/// A request to a witness: a note, and the proof before it.
pub const ADD_CHECKPOINT_BYTES_MAX: usize = 4 * 1024 + NOTE_BYTES_MAX;
/// Requests that a witness holds in memory at once.
pub const WITNESS_REQUESTS_MAX: usize = 16;
/// Entries of a log that an auditor reads.
pub const LOG_ENTRIES_MAX: u64 = 1 << 22;
