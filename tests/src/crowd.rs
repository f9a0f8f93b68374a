//! Programs that begin and end together: those that include `programs/told.h`, in one machine or in several.
use anyhow::{Context, Result, ensure};

use crate::Machine;

/// Running programs. Those of this host are killed when it is dropped.
pub struct Crowd<'m, M: Machine> {
    machines: &'m mut [M],
    members: Vec<Member<M::Job>>,
}

struct Member<J> {
    machine: usize,
    job: J,
    pid: u32,
}

impl<'m, M: Machine> Crowd<'m, M> {
    /// Starts so many of each of the commands in every machine, and waits until all are ready to begin.
    pub fn ready(machines: &'m mut [M], commands: &[String], each: usize) -> Result<Self> {
        let mut members = Vec::new();
        for (machine, place) in machines.iter_mut().enumerate() {
            for command in commands
                .iter()
                .flat_map(|command| std::iter::repeat_n(command, each))
            {
                let (job, pid) = place.start_with_pid(command)?;
                members.push(Member { machine, job, pid });
            }
        }
        for member in &members {
            machines[member.machine].wait_for_output(&member.job, ": ready")?;
        }
        Ok(Self { machines, members })
    }

    /// All begin.
    pub fn begin(&mut self) -> Result<()> {
        self.signal("USR1")?;
        for member in &self.members {
            self.machines[member.machine].wait_for_output(&member.job, ": running")?;
        }
        Ok(())
    }

    /// All are told to end; what each printed once it has. One whose results are wrong is an error.
    pub fn end(mut self) -> Result<Vec<String>> {
        self.signal("TERM")?;
        self.wait()
    }

    /// What each printed, once all have ended by themselves.
    pub fn wait(self) -> Result<Vec<String>> {
        let mut said = Vec::new();
        for member in self.members {
            let output = self.machines[member.machine].wait(member.job)?;
            ensure!(
                output.success(),
                "a program ended with {}: {}",
                output.status,
                output.text
            );
            said.push(output.text);
        }
        Ok(said)
    }

    /// All are ended at once, whatever they do.
    pub fn kill(mut self) -> Result<()> {
        self.signal("KILL")?;
        for member in self.members {
            self.machines[member.machine].wait(member.job)?;
        }
        Ok(())
    }

    /// Sends a signal to all; one that has ended gets none.
    fn signal(&mut self, name: &str) -> Result<()> {
        for (number, machine) in self.machines.iter_mut().enumerate() {
            let pids: String = self
                .members
                .iter()
                .filter(|member| member.machine == number)
                .map(|member| format!(" {}", member.pid))
                .collect();
            machine
                .must(&format!("for p in{pids}; do kill -{name} $p || echo gone; done"))
                .context("cannot send a signal")?;
        }
        Ok(())
    }
}
