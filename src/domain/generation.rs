//! Which life of a partition offsets belong to.
//!
//! A topic that is deleted and made again has another id, and its offsets mean other messages. The same happens to one
//! partition when its broker loses the end of a log that was read already (an unclean leader election, a restored disk): new
//! messages get offsets of lost ones. Once somebody accepts that, what comes from then on is told apart by a number behind the
//! topic's id: `ID`, then `ID~1`, `ID~2` …

/// What stands between a topic's id and the number; no id has one.
const MARK: char = '~';

/// The topic's id in a generation.
#[must_use]
pub fn topic_id(generation: &str) -> &str {
    generation.split(MARK).next().unwrap_or(generation)
}

/// How often the end of the partition's log was lost and that was accepted.
#[must_use]
pub fn losses(generation: &str) -> i64 {
    generation.split_once(MARK).and_then(|(_, number)| number.parse().ok()).unwrap_or(0)
}

/// The generation of a topic's partition after so many losses.
#[must_use]
pub fn generation(topic_id: &str, losses: i64) -> String {
    if losses == 0 { topic_id.to_owned() } else { format!("{topic_id}{MARK}{losses}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_is_the_topics_id_and_what_was_lost_since() {
        for (text, id, number) in [("0", "0", 0), ("AB_-9~1", "AB_-9", 1), ("AB~12", "AB", 12)] {
            assert_eq!((topic_id(text), losses(text)), (id, number));
            assert_eq!(generation(id, number), text);
        }
    }
}
