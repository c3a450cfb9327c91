//! AdamW: numbers worked by hand, clipping, steps that are left out, state that survives a file.

use candle_core::Tensor;
use pelton::model::{AdamW, AdamWConfig, StepReport, Tensors};

use super::{CPU, largest_difference, values};

fn named(name: &str, data: &[f32]) -> Tensors {
    Tensors::from([(name.to_owned(), Tensor::from_vec(data.to_vec(), (data.len(), 1), &CPU).unwrap())])
}

#[test]
fn two_steps_are_those_worked_by_hand() {
    let config = AdamWConfig { weight_decay: 0.01, norm_max: None, ..AdamWConfig::default() };
    let mut optimiser = AdamW::new(config);
    let mut parameters = named("w", &[1.0]);
    // m = 0.05, v = 0.00025; corrected 0.5 and 0.25: 1 * (1 - 0.001) - 0.1 * 0.5 / 0.5.
    optimiser.step(&mut parameters, &named("w", &[0.5]), 0.1).unwrap();
    assert!(largest_difference(&values(&parameters["w"]), &[0.899]) < 1e-6);
    // m = 0.02, v = 0.00031225; corrected 0.02 / 0.19 and 0.00031225 / 0.001999.
    optimiser.step(&mut parameters, &named("w", &[-0.25]), 0.1).unwrap();
    assert!(largest_difference(&values(&parameters["w"]), &[0.871_467_3]) < 1e-6);
}

#[test]
fn the_global_norm_is_clipped() {
    // With eps = 1 the step shows the size of the gradient: 3 and 4 have norm 5 and become 0.6 and 0.8.
    let mut optimiser = AdamW::new(AdamWConfig { eps: 1.0, norm_max: Some(1.0), ..AdamWConfig::default() });
    let mut parameters: Tensors = named("a", &[0.0]).into_iter().chain(named("b", &[0.0])).collect();
    let gradients = named("a", &[3.0]).into_iter().chain(named("b", &[4.0])).collect();
    let report = optimiser.step(&mut parameters, &gradients, 0.1).unwrap();
    assert_eq!(report, StepReport { gradient_norm: 5.0, clipped: true, skipped: false });
    assert!(largest_difference(&values(&parameters["a"]), &[-0.0375]) < 1e-6);
    assert!(largest_difference(&values(&parameters["b"]), &[-0.044_444_4]) < 1e-6);
}

#[test]
fn a_gradient_that_is_not_finite_changes_nothing() {
    let mut optimiser = AdamW::new(AdamWConfig::default());
    let mut parameters = named("w", &[1.0, 2.0]);
    let report = optimiser.step(&mut parameters, &named("w", &[0.1, f32::NAN]), 0.1).unwrap();
    assert!(report.skipped && optimiser.steps() == 0);
    assert_eq!(values(&parameters["w"]), [1.0, 2.0]);
}

#[test]
fn vectors_do_not_decay() {
    let mut optimiser = AdamW::new(AdamWConfig { weight_decay: 0.5, ..AdamWConfig::default() });
    let vector = |value: f32| Tensors::from([("norm".to_owned(), Tensor::new(&[value], &CPU).unwrap())]);
    let mut parameters = vector(1.0);
    optimiser.step(&mut parameters, &vector(0.0), 0.1).unwrap();
    assert_eq!(values(&parameters["norm"]), [1.0]);
}

#[test]
fn a_run_goes_on_from_a_saved_state_as_if_it_had_not_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("optimiser.safetensors");
    let gradient = |step: u32| named("w", &[0.3 * step as f32 - 0.5, 0.1]);
    let mut whole = (AdamW::new(AdamWConfig::default()), named("w", &[1.0, -1.0]));
    for step in 0..6 {
        whole.0.step(&mut whole.1, &gradient(step), 0.05).unwrap();
        if step == 2 {
            whole.0.save(&path).unwrap();
            let mut resumed = (AdamW::load(AdamWConfig::default(), &path).unwrap(), whole.1.clone());
            assert_eq!(resumed.0.steps(), 3);
            for step in 3..6 {
                resumed.0.step(&mut resumed.1, &gradient(step), 0.05).unwrap();
            }
            let mut rest = (whole.0.clone(), whole.1.clone());
            for step in 3..6 {
                rest.0.step(&mut rest.1, &gradient(step), 0.05).unwrap();
            }
            assert_eq!(values(&resumed.1["w"]), values(&rest.1["w"]));
        }
    }
}

#[test]
fn a_gradient_without_its_parameter_is_named() {
    let mut optimiser = AdamW::new(AdamWConfig::default());
    let mut parameters = named("w", &[1.0]);
    let mut ask = |gradients: &Tensors| optimiser.step(&mut parameters, gradients, 0.1).unwrap_err().to_string();
    assert_eq!(ask(&named("v", &[1.0])), "gradient is v [1, 1], expected the name of a parameter");
    assert_eq!(ask(&named("w", &[1.0, 1.0])), "gradient is w [2, 1], expected [1, 1]");
}
