//! Seeing that stop and resume have their effect: a kernel counts in memory that we look at.
use super::Controls;
use crate::cuda::{Cuda, Grid, Raw};
use crate::image::Image;
use crate::session::Session;
use crate::shared::Shared;
use anyhow::{Context as _, anyhow, bail};
use rustix::fs::MemfdFlags;
use rustix::mm::{MapFlags, ProtFlags};
use std::os::fd::AsFd;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};
use vgpu_protocol::result::Code;

/// Counts in word 0 until word 8 is not 0, or for a while: on an H100 a round takes a microsecond or two.
const KERNEL: &str = "\
.version 6.0
.target sm_50
.address_size 64
.visible .entry vgpu_count(.param .u64 words, .param .u64 rounds)
{
    .reg .pred %p;
    .reg .b64 %rd<5>;
    ld.param.u64 %rd1, [words];
    ld.param.u64 %rd2, [rounds];
    mov.u64 %rd3, 0;
AGAIN:
    add.s64 %rd3, %rd3, 1;
    st.volatile.global.u64 [%rd1], %rd3;
    ld.volatile.global.u64 %rd4, [%rd1+8];
    setp.ne.s64 %p, %rd4, 0;
    @%p bra DONE;
    setp.lt.u64 %p, %rd3, %rd2;
    @%p bra AGAIN;
DONE:
    ret;
}
";
/// Rounds after which the kernel ends by itself.
const ROUNDS: u64 = 1 << 20;
const LEN: u64 = vgpu_protocol::limits::PAGE_LEN;
/// How long a kernel that was stopped must stand still.
const STILL: Duration = Duration::from_micros(300);
/// A kernel that does not move for so long does not run.
const PATIENCE: Duration = Duration::from_secs(2);

fn cuda_error(what: &'static str) -> impl Fn(Code) -> anyhow::Error {
    move |code| anyhow!("{what}: CUDA error {code}")
}

/// What was seen of stop and resume.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stop {
    /// They have their effect.
    pub works: bool,
    /// How long each took, in microseconds.
    pub stop_us: u64,
    pub resume_us: u64,
}

/// Tries stop and resume. A context is current.
pub fn stop(session: &Session, controls: &mut dyn Controls) -> anyhow::Result<Stop> {
    let cuda = &session.cuda;
    let page = Page::new(cuda)?;
    let image = Image::new(KERNEL.as_bytes()).context("its image")?;
    let module = cuda
        .module_load(&image)
        .map_err(cuda_error("loading its kernel"))?;
    let outcome = run(cuda, controls, &page, module);
    cuda.module_unload(module)
        .map_err(cuda_error("unloading its kernel"))?;
    outcome
}

fn run(cuda: &Cuda, controls: &mut dyn Controls, page: &Page<'_>, module: Raw) -> anyhow::Result<Stop> {
    let function = cuda
        .module_get_function(module, c"vgpu_count")
        .map_err(cuda_error("its kernel"))?;
    // CU_STREAM_NON_BLOCKING.
    let stream = cuda.stream_create(1, 0).map_err(cuda_error("its stream"))?;
    let end = cuda.event_create_untimed().map_err(cuda_error("its event"))?;
    let params = [page.addr.to_le_bytes(), ROUNDS.to_le_bytes()].concat();
    let grid = Grid {
        blocks: [1; 3],
        threads: [1; 3],
        shared: 0,
    };
    cuda.launch_kernel(function, grid, stream, &params, params.len())
        .map_err(cuda_error("its launch"))?;
    cuda.event_record(end, stream).map_err(cuda_error("its end"))?;
    let outcome = watch(controls, page);
    // Whatever came of it, the kernel ends.
    page.words.u64(8).store(1, SeqCst);
    while !cuda.event_query(end).map_err(cuda_error("its end"))? {
        std::thread::sleep(crate::completion::FAST);
    }
    cuda.event_destroy(end).map_err(cuda_error("its event"))?;
    cuda.stream_destroy(stream).map_err(cuda_error("its stream"))?;
    outcome
}

fn watch(controls: &mut dyn Controls, page: &Page<'_>) -> anyhow::Result<Stop> {
    page.moves_from(0)?;
    let (stopped, stop_us) = timed(|| controls.stop());
    // A write that was on its way when the kernel stopped may still arrive.
    std::thread::sleep(STILL);
    let before = page.count();
    std::thread::sleep(STILL);
    let stood = page.count() == before;
    let (resumed, resume_us) = timed(|| controls.resume());
    stopped.context("stop")?;
    resumed.context("resume")?;
    if before >= ROUNDS {
        bail!("its kernel ended before it was stopped");
    }
    page.moves_from(before)?;
    Ok(Stop {
        works: stood,
        stop_us,
        resume_us,
    })
}

/// What came of it, and the microseconds it took.
fn timed<R>(f: impl FnOnce() -> R) -> (R, u64) {
    let start = Instant::now();
    let r = f();
    (r, start.elapsed().as_micros() as u64)
}

/// A page that the GPU can write.
struct Page<'a> {
    addr: u64,
    words: Shared,
    cuda: &'a Cuda,
}

impl<'a> Page<'a> {
    fn new(cuda: &'a Cuda) -> anyhow::Result<Self> {
        let file = rustix::fs::memfd_create("vgpu-proof", MemfdFlags::CLOEXEC)?;
        rustix::fs::ftruncate(&file, LEN)?;
        let rw = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping of the whole file, at an address of the kernel's choice.
        let at = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                LEN as usize,
                rw,
                MapFlags::SHARED,
                file.as_fd(),
                0,
            )
        }?;
        // SAFETY: mapped until this value is dropped, when the kernel has ended.
        let words = unsafe { Shared::new(at.cast(), LEN) };
        let page = Self {
            addr: at as u64,
            words,
            cuda,
        };
        // SAFETY: as above.
        let pointer = unsafe { cuda.host_register(page.addr, LEN, 0) }.map_err(cuda_error("its memory"))?;
        if pointer != page.addr {
            bail!("its memory at {:#x} is at {pointer:#x} for the GPU", page.addr);
        }
        Ok(page)
    }

    fn count(&self) -> u64 {
        self.words.u64(0).load(SeqCst)
    }

    fn moves_from(&self, count: u64) -> anyhow::Result<()> {
        let start = Instant::now();
        while self.count() == count {
            if start.elapsed() > PATIENCE {
                bail!("its kernel does not move");
            }
            std::hint::spin_loop();
        }
        Ok(())
    }
}

impl Drop for Page<'_> {
    fn drop(&mut self) {
        // Refused if registering it had failed.
        let _ = self.cuda.host_unregister(self.addr);
        // SAFETY: nothing uses it any more.
        let _ = unsafe { rustix::mm::munmap(self.addr as *mut _, LEN as usize) };
    }
}
