//! An option for every limit of a VM.
use clap::{Arg, ArgMatches, Args, Command, Error, FromArgMatches};
use vgpu_pool_map::LIMITS;
use vgpu_program::arguments::number;
use vgpu_sched_api::messages::Limits;

/// Those that are given.
#[derive(Clone, Copy, Debug, Default)]
pub struct LimitOptions(pub Limits);

impl Args for LimitOptions {
    fn augment_args(command: Command) -> Command {
        command.args(LIMITS.map(|limit| {
            Arg::new(limit.key)
                .long(limit.key.replace('_', "-"))
                .value_name("N")
                .value_parser(number::<u64>("a number", 0..=limit.most))
                .help(format!("{}; 0: {}", limit.about, limit.zero))
                .help_heading("Limits")
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for LimitOptions {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut limits = Limits::default();
        for limit in LIMITS {
            (limit.set)(&mut limits, matches.get_one(limit.key).copied());
        }
        Ok(Self(limits))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
