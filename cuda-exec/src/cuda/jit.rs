//! Options of the compiler and linker, and what they say.
use cudarc::driver::sys::CUjit_option_enum as jit;
use vgpu_protocol::words::JitOption;

/// Options as the library takes them. It may fill in what is asked for as long as these live.
#[derive(Debug)]
pub struct Jit {
    options: Vec<i32>,
    values: Vec<usize>,
    info: Vec<u8>,
    error: Vec<u8>,
    /// Where the options that are results begin.
    results: usize,
    /// Which option the threads per block are.
    threads: Option<usize>,
}

/// What the compiler said.
#[derive(Debug, Default)]
pub struct JitSaid {
    /// The information log.
    pub info: Vec<u8>,
    /// The error log.
    pub error: Vec<u8>,
    /// The bits of an f32: milliseconds.
    pub wall_time_bits: u32,
    /// Threads per block that it compiled for, if the options name them.
    pub threads: u32,
}

impl Jit {
    /// Options whose numbers are those of [`JitOption::is_number`], with so much room for the logs.
    pub fn new(numbers: &[JitOption], info_len: usize, error_len: usize) -> Self {
        let mut made = Self {
            options: numbers.iter().map(|number| number.option as i32).collect(),
            values: numbers.iter().map(|number| number.value as usize).collect(),
            info: vec![0; info_len],
            error: vec![0; error_len],
            results: numbers.len(),
            threads: None,
        };
        made.threads = made
            .options
            .iter()
            .position(|&option| option == JitOption::THREADS_PER_BLOCK);
        for (log, buffer, size) in [
            (
                &mut made.info,
                jit::CU_JIT_INFO_LOG_BUFFER,
                jit::CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES,
            ),
            (
                &mut made.error,
                jit::CU_JIT_ERROR_LOG_BUFFER,
                jit::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
            ),
        ] {
            if !log.is_empty() {
                made.options.extend([buffer as i32, size as i32]);
                made.values.extend([log.as_mut_ptr() as usize, log.len()]);
            }
        }
        made.options.push(jit::CU_JIT_WALL_TIME as i32);
        made.values.push(0);
        made
    }

    /// Numbers alone: nothing is to be said.
    pub fn silent(numbers: &[JitOption]) -> Self {
        let mut made = Self::new(numbers, 0, 0);
        made.options.truncate(numbers.len());
        made.values.truncate(numbers.len());
        made
    }

    /// How many there are, the options, and their values.
    pub fn arrays(&mut self) -> (u32, *mut i32, *mut usize) {
        let len = self.options.len() as u32;
        (len, self.options.as_mut_ptr(), self.values.as_mut_ptr())
    }

    /// What was said so far.
    pub fn said(&self) -> JitSaid {
        let mut at = self.results;
        let mut log = |log: &Vec<u8>| {
            if log.is_empty() {
                return Vec::new();
            }
            // What the library says that it filled; all there is until it says so.
            let filled = self.values[at + 1].min(log.len());
            at += 2;
            let said = &log[..filled];
            let end = said.iter().position(|&byte| byte == 0);
            match end {
                // A log that did not fit fills it, with the terminator.
                Some(end) if filled == log.len() && end + 1 < filled => log[..end].to_vec(),
                _ => said.to_vec(),
            }
        };
        let (info, error) = (log(&self.info), log(&self.error));
        JitSaid {
            info,
            error,
            // The result, a float, replaces the value.
            wall_time_bits: self.values.get(at).map_or(0, |&bits| bits as u32),
            threads: self.threads.map_or(0, |i| self.values[i] as u32),
        }
    }
}
