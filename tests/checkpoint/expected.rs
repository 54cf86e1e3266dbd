//! Comparing a checkpoint with the parameters that a model needs.

use gemma_xla::checkpoint::{Checkpoint, Error};

use super::encode::{FILE, encode, everything, flatten, open};

fn checkpoint() -> Checkpoint {
    open(&encode(&everything())).unwrap()
}

fn needs() -> Vec<(String, Vec<usize>)> {
    flatten(&everything())
        .into_iter()
        .map(|(name, leaf)| (name, leaf.shape))
        .collect()
}

#[test]
fn exactly_the_needed_tensors_pass() {
    checkpoint().check(&needs()).unwrap();
}

#[test]
fn a_missing_tensor_is_named_with_the_shape_it_should_have() {
    let mut needs = needs();
    needs.push(("model/layers/2/kernel".to_owned(), vec![3, 4]));
    let error = checkpoint().check(&needs).unwrap_err();
    assert!(matches!(error, Error::MissingTensor { others: 0, .. }));
    assert_eq!(
        error.to_string(),
        format!("{FILE}: tensor \"model/layers/2/kernel\" of shape [3, 4] is missing")
    );
    needs.push(("model/layers/3/kernel".to_owned(), vec![3, 4]));
    let message = checkpoint().check(&needs).unwrap_err().to_string();
    for part in [
        "2 tensors are missing",
        "\"model/layers/2/kernel\", \"model/layers/3/kernel\"",
        "[3, 4]",
    ] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn a_tensor_left_over_is_named() {
    let needs: Vec<_> = needs()
        .into_iter()
        .filter(|(name, _)| name != "model/embed")
        .collect();
    let error = checkpoint().check(&needs).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("{FILE}: tensor \"model/embed\" of shape [5, 8] is left over")
    );
}

#[test]
fn a_wrong_shape_is_named_with_both_shapes() {
    let mut needs = needs();
    needs[0].1 = vec![8, 5];
    let error = checkpoint().check(&needs).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("{FILE}: tensor \"model/embed\" has shape [5, 8], expected [8, 5]")
    );
}
