//! What captured work names: functions, events, arrays. libcuda's graphs hold their handles and do not keep them, and nobody can tell
//! which graph holds which; so each stays as long as its context, once it was named during a capture.
use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// See the module.
#[derive(Default)]
pub struct Captured(Mutex<HashMap<usize, Kept>>);

struct Kept {
    /// The context's id.
    context: u32,
    _object: Arc<dyn Any + Send + Sync>,
}

impl Captured {
    /// Keeps an object of a context.
    pub fn keep<T: Any + Send + Sync>(&self, context: u32, object: &Arc<T>) {
        let kept = Kept {
            context,
            _object: object.clone(),
        };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The same object is at the same place as long as it is kept.
        all.entry(Arc::as_ptr(object).addr()).or_insert(kept);
    }

    /// A context is gone, and its graphs with it.
    pub fn forget_context(&self, context: u32) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let gone: Vec<_> = all.extract_if(|_, kept| kept.context == context).collect();
        // What they are may end with them, and that takes its time.
        drop(all);
        drop(gone);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_captured_stays_as_long_as_its_context() {
        let (captured, object) = (Captured::default(), Arc::new(String::from("a function")));
        captured.keep(1, &object);
        captured.keep(1, &object);
        assert_eq!(Arc::strong_count(&object), 2);
        captured.forget_context(2);
        assert_eq!(Arc::strong_count(&object), 2);
        captured.forget_context(1);
        assert_eq!(Arc::strong_count(&object), 1);
    }
}
