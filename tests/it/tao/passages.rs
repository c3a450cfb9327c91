//! The second task: every right answer stands in its passage, and the label-free reward tells it from the wrong one.

use super::scorers::{open, quiet};
use pelton::demo::passages::{SCORERS, TRUTH, passages};
use pelton::tao::score::Case;

#[test]
fn right_answers_earn_more_than_wrong_ones_of_the_same_passage() {
    let (training, truth) = (open(SCORERS), open(TRUTH));
    let all = passages(3, 150);
    assert_eq!(all, passages(3, 150));
    let (mut right_sum, mut better) = (0.0, 0);
    for task in &all {
        assert!(task.document.contains(&task.reference) && task.document.contains(&task.wrong), "{task:?}");
        let messages = task.messages();
        // What a model says that repeats the question's thing and fills in the value, right or wrong.
        let thing = task.question.split("the ").last().unwrap_or_default().trim_end_matches('?').to_owned();
        let say = |value: &str| format!("For the {thing}: {value}.");
        let texts =
            [say(&task.reference), say(&task.wrong), "I cannot answer that.".to_owned(), "Quantum flux.".to_owned()];
        let judge = |composition: &pelton::tao::score::Composition| -> Vec<f64> {
            let cases: Vec<Case<'_>> =
                texts.iter().map(|t| Case { reference: Some(&task.reference), ..Case::new(&messages, t) }).collect();
            quiet(|w| composition.judge(&cases, w)).unwrap().into_iter().map(|v| v.reward.unwrap()).collect()
        };
        let known = judge(&truth);
        assert_eq!(known, [1.0, 0.0, 0.0, 0.0], "{task:?}");
        let earned = judge(&training);
        assert_eq!(earned[2..], [0.0, 0.0], "{task:?}");
        right_sum += earned[0];
        better += usize::from(earned[0] > earned[1]);
    }
    // No label is seen, so not every pair can be told; nearly all are.
    assert!(right_sum / 150.0 > 0.75, "right answers earn {}", right_sum / 150.0);
    assert!(better > 135, "{better} of 150 right answers earn more than the wrong ones");
}
