//! Lists that one answer may be too short for: as much as fits, and where to go on.
use serde::Serialize;
use vgpu_sched_api::messages::PACKET_LEN_MAX;

/// Bytes of an answer that are its list's.
const LIST_LEN: usize = PACKET_LEN_MAX - 1024;

/// The first items whose JSON fits into an answer.
pub fn that_fit<T: Serialize>(items: impl Iterator<Item = T>) -> Vec<T> {
    that_fit_beside(&(), items)
}

/// The first items whose JSON fits into an answer, beside what else it says.
pub fn that_fit_beside<T: Serialize>(rest: &impl Serialize, items: impl Iterator<Item = T>) -> Vec<T> {
    let mut len = serde_json::to_vec(rest).map_or(LIST_LEN, |json| json.len());
    let fits = |item: &T| {
        // With a comma. What cannot be written would not fit anywhere.
        len += serde_json::to_vec(item).map_or(LIST_LEN, |json| json.len() + 1);
        len <= LIST_LEN
    };
    items.take_while(fits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_an_answer_and_nearly_a_full_one() {
        let items = |text: &'static str| that_fit(std::iter::repeat(text));
        for text in ["", "some text", "\u{1}\u{1}\u{1}\"\\"] {
            let len = serde_json::to_vec(&items(text)).unwrap().len();
            assert!(len <= PACKET_LEN_MAX - 1000, "{len}");
            assert!(len > PACKET_LEN_MAX - 1100, "{len}");
        }
        let beside = serde_json::to_vec(&that_fit_beside(&"x".repeat(1000), std::iter::repeat("y"))).unwrap();
        assert!(beside.len() <= PACKET_LEN_MAX - 2000 && beside.len() > PACKET_LEN_MAX - 2100);
        let long = "x".repeat(PACKET_LEN_MAX);
        assert!(that_fit([&long].into_iter()).is_empty());
    }
}
