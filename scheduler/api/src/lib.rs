//! What `vgpud` and those who talk to it say to one another.
//!
//! * [`messages`]: the control socket's messages: one JSON object per `SOCK_SEQPACKET` packet, descriptors as ancillary data.
//! * [`turn`]: the turn page, the word that one session's executor and `vgpud` share.
//! * [`vm_page`]: the page that all executors of a VM share: its limits, and its memory.
//! * [`rm`]: the driver's control that stops channels, as an executor or `vgpud` issues it.
//! * [`packet`]: sending and receiving such packets.

pub mod messages;
pub mod packet;
pub mod rm;
pub mod turn;
pub mod vm_page;
