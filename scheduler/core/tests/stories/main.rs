//! What the scheduler does, to the microsecond.
mod policies;
mod scenarios;
mod story;
