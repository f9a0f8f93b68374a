//! Plays the backend's table of what sessions share.
use super::{Exec, readable};
use std::os::fd::{AsFd, OwnedFd};
use vgpu_protocol::calls::Wire;
use vgpu_protocol::host::{SHARE_LEN, ShareKind, ShareReply, ShareRequest};
use vgpu_protocol::result;
use vgpu_protocol::virtio::Status;
use vgpu_protocol::words::Words;
use vgpu_sched_api::packet;
use zerocopy::{FromBytes, IntoBytes};

/// What stands for something that is shared.
pub type Token = [u8; SHARE_LEN];

/// The backend's table: takes what one executor publishes, and gives it to another one.
#[derive(Default)]
pub struct Table {
    pub published: Vec<(Token, ShareRequest, Option<OwnedFd>)>,
    tokens: u8,
}

impl Table {
    /// Answers one request; of what kind it was, and the token that it is about.
    pub fn answer(&mut self, shares: &OwnedFd) -> (ShareKind, Token) {
        readable(shares);
        let (bytes, files) = packet::receive_bytes(shares, size_of::<ShareRequest>()).unwrap();
        let request = ShareRequest::read_from_bytes(&bytes).unwrap();
        let kind = ShareKind::from_u32(request.kind).unwrap();
        let mut reply = ShareReply {
            status: Status::Ok as u32,
            reserved: 0,
            len: 0,
            bytes: [0; SHARE_LEN],
        };
        let mut found = None;
        let mut token = request.bytes;
        match kind {
            ShareKind::Publish => {
                self.tokens += 1;
                token = [self.tokens; SHARE_LEN];
                reply.bytes = token;
                self.published.push((token, request, files.into_iter().next()));
            }
            ShareKind::Find => {
                let key = (token, request.what, request.of);
                let mut all = self.published.iter();
                match all.find(|(token, share, _)| (*token, share.what, share.of) == key) {
                    Some((_, share, file)) => {
                        (reply.len, reply.bytes) = (share.len, share.bytes);
                        found = file.as_ref().map(|file| file.as_fd());
                    }
                    None => reply.status = Status::NotFound as u32,
                }
            }
            ShareKind::Withdraw => {
                let before = self.published.len();
                self.published
                    .retain(|(other, share, _)| (*other, share.what) != (token, request.what));
                assert_eq!(
                    self.published.len() + 1,
                    before,
                    "nothing of that kind has this token"
                );
            }
        }
        let files: Vec<_> = found.into_iter().collect();
        packet::send_bytes(shares, reply.as_bytes(), &files).unwrap();
        (kind, token)
    }

    /// Has an executor make a call that asks this table once.
    pub fn get<C: Wire>(
        &mut self,
        exec: &mut Exec,
        arguments: C::In,
        blob: &[u8],
        kind: ShareKind,
    ) -> Result<(C::Out, Token), i32> {
        let position = exec.call::<C>(arguments, blob);
        let (asked, token) = self.answer(&exec.shares);
        assert_eq!(asked, kind);
        let (code, words, _) = exec.answer(0, position);
        match code {
            result::SUCCESS => Ok((C::Out::take(&words).unwrap(), token)),
            code => Err(code),
        }
    }
}
