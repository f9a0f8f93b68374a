//! Linking at run time.
use super::cuda;
use super::module::{Jit, JitAnswer, image_len, unwrapped};
use crate::abi::{CUlinkState, Host, In, Out, Text};
use crate::handles::Found;
use crate::lock;
use crate::session::Call;
use std::ffi::{OsStr, c_int, c_uint};
use std::os::unix::ffi::OsStrExt;
use std::sync::Mutex;
use vgpu_protocol::calls::{cuLinkAddData, cuLinkComplete, cuLinkCreate, cuLinkDestroy};
use vgpu_protocol::limits::{MODULE_LEN_MAX, NAME_LEN_MAX};
use vgpu_protocol::result::{self, Code};
use zerocopy::IntoBytes;

/// CUjitInputType: a fat binary, which says itself how long it is.
const FATBINARY: c_int = 2;

/// A link that was begun.
pub struct Link {
    /// Its number on the wire.
    pub id: u32,
    /// Its context.
    pub context: u32,
    jit: Jit,
    /// Where the values of its options lie, which the program keeps as long as the link.
    values: usize,
    /// Bytes of each log that are wanted.
    wanted: [u32; 2],
    /// The result, once there is one: the program reads it until it destroys the link.
    image: Mutex<Option<Box<[u8]>>>,
}

impl Link {
    fn tell(&self, answer: &JitAnswer<'_>) -> Result<(), Code> {
        // SAFETY: by the API's contract the values stay where they are as long as the link.
        let values = unsafe { In::new(self.values) };
        self.jit.tell(values, self.wanted, answer)
    }
}

fn find(call: &Call, link: CUlinkState) -> Result<Found<Link>, Code> {
    call.session.links.get(link).ok_or(result::INVALID_HANDLE)
}

fn create(len: c_uint, options: In<c_int>, values: In<Out<u8>>, place: Out<CUlinkState>) -> Result<(), Code> {
    let call = Call::enter()?;
    let context = call.context()?;
    place.check()?;
    let jit = Jit::new(len as usize, options, values)?;
    let wanted = [jit.wanted(0, values)?, jit.wanted(1, values)?];
    let session = call.session;
    let id = session.links.reserve().ok_or(result::OUT_OF_MEMORY)?;
    let arguments = cuLinkCreate::In {
        info_len: wanted[0],
        error_len: wanted[1],
        link: id,
    };
    if let Err(code) = call.ask_with::<cuLinkCreate::Call>(context.id, arguments, jit.numbers().as_bytes()) {
        session.links.release(id);
        return Err(code);
    }
    let link = Link {
        id,
        context: context.id,
        jit,
        values: values.addr(),
        wanted,
        image: Mutex::new(None),
    };
    place.set(session.links.insert(id, link).handle())
}

/// Adds `len` bytes of input.
fn add(link: CUlinkState, kind: c_int, data: Host, len: usize, name: &[u8], jit: &Jit) -> Result<(), Code> {
    let call = Call::enter()?;
    let link = find(&call, link)?;
    let len = len as u64;
    if data.is_null() || len == 0 || len > MODULE_LEN_MAX || name.len() > NAME_LEN_MAX || !jit.is_numbers() {
        return Err(result::INVALID_VALUE);
    }
    let blob = [jit.numbers().as_bytes(), name].concat();
    call.with_buffer(len, |buffer, image| {
        if !data.read(0, buffer) {
            return Err(result::INVALID_VALUE);
        }
        let arguments = cuLinkAddData::In {
            link: link.id,
            kind,
            image,
            bytes: len,
            options: jit.numbers().len() as u32,
        };
        let (out, logs) = call.ask_with::<cuLinkAddData::Call>(link.context, arguments, &blob)?;
        link.tell(&JitAnswer {
            result: out.result,
            wall_time_bits: out.wall_time_bits,
            threads: out.threads,
            said: [out.info_said, out.error_said],
            logs: &logs,
        })
    })
}

fn add_data(
    link: CUlinkState,
    kind: c_int,
    data: Host,
    len: usize,
    name: Text,
    jit: &Jit,
) -> Result<(), Code> {
    let name = if name.is_null() {
        &[]
    } else {
        name.get()?.to_bytes()
    };
    if kind == FATBINARY {
        let data = unwrapped(data)?;
        let len = image_len(data)?;
        return add(link, kind, data, len as usize, name, jit);
    }
    add(link, kind, data, len, name, jit)
}

fn add_file(link: CUlinkState, kind: c_int, path: Text, jit: &Jit) -> Result<(), Code> {
    drop(find(&Call::enter()?, link)?);
    let name = path.get()?.to_bytes();
    let mut file = std::fs::read(OsStr::from_bytes(name)).map_err(|_| result::FILE_NOT_FOUND)?;
    // A file of PTX need not have a terminator.
    file.push(0);
    // SAFETY: the file's content, which outlives the call.
    let data = unsafe { Host::new(file.as_ptr() as usize) };
    add(link, kind, data, file.len(), name, jit)
}

fn complete(link: CUlinkState, image: Out<usize>, len: Out<usize>) -> Result<(), Code> {
    let call = Call::enter()?;
    let link = find(&call, link)?;
    image.check()?;
    let mut kept = lock(&link.image);
    let linked = match &mut *kept {
        Some(linked) => linked,
        none => {
            let mut arguments = cuLinkComplete::In {
                link: link.id,
                to: 0,
                bytes: 0,
            };
            let (out, logs) = call.ask_with::<cuLinkComplete::Call>(link.context, arguments, &[])?;
            link.tell(&JitAnswer {
                result: out.result,
                wall_time_bits: out.wall_time_bits,
                threads: out.threads,
                said: [out.info_said, out.error_said],
                logs: &logs,
            })?;
            if out.image_bytes == 0 || out.image_bytes > MODULE_LEN_MAX {
                return Err(result::OUT_OF_MEMORY);
            }
            // The host copies it into a buffer that it can reach.
            let copied = call.with_buffer(out.image_bytes, |buffer, to| {
                (arguments.to, arguments.bytes) = (to, buffer.len() as u64);
                call.ask_with::<cuLinkComplete::Call>(link.context, arguments, &[])?;
                let mut copied = vec![0; buffer.len()];
                // SAFETY: the buffer's address, and as many bytes, which the host has written.
                unsafe { std::ptr::copy_nonoverlapping(to as *const u8, copied.as_mut_ptr(), copied.len()) };
                Ok(copied.into_boxed_slice())
            })?;
            none.insert(copied)
        }
    };
    len.set_if_wanted(linked.len());
    image.set(linked.as_ptr() as usize)
}

cuda! {
    fn cuLinkCreate(len: c_uint, options: In<c_int>, values: In<Out<u8>>, link: Out<CUlinkState>) {
        create(len, options, values, link)
    }

    fn cuLinkCreate_v2(len: c_uint, options: In<c_int>, values: In<Out<u8>>, link: Out<CUlinkState>) {
        create(len, options, values, link)
    }

    fn cuLinkAddData(
        link: CUlinkState, kind: c_int, data: Host, bytes: usize, name: Text, len: c_uint, options: In<c_int>,
        values: In<Out<u8>>,
    ) {
        add_data(link, kind, data, bytes, name, &Jit::new(len as usize, options, values)?)
    }

    fn cuLinkAddData_v2(
        link: CUlinkState, kind: c_int, data: Host, bytes: usize, name: Text, len: c_uint, options: In<c_int>,
        values: In<Out<u8>>,
    ) {
        add_data(link, kind, data, bytes, name, &Jit::new(len as usize, options, values)?)
    }

    fn cuLinkAddFile(
        link: CUlinkState, kind: c_int, path: Text, len: c_uint, options: In<c_int>, values: In<Out<u8>>,
    ) {
        add_file(link, kind, path, &Jit::new(len as usize, options, values)?)
    }

    fn cuLinkAddFile_v2(
        link: CUlinkState, kind: c_int, path: Text, len: c_uint, options: In<c_int>, values: In<Out<u8>>,
    ) {
        add_file(link, kind, path, &Jit::new(len as usize, options, values)?)
    }

    fn cuLinkComplete(link: CUlinkState, image: Out<usize>, bytes: Out<usize>) {
        complete(link, image, bytes)
    }

    fn cuLinkDestroy(link: CUlinkState) {
        let call = Call::enter()?;
        let session = call.session;
        let entry = session.links.remove(link).ok_or(result::INVALID_HANDLE)?;
        let destroyed = call.ask::<cuLinkDestroy::Call>(entry.context, cuLinkDestroy::In { link: entry.id });
        session.links.release(entry.id);
        destroyed.map(drop)
    }
}
