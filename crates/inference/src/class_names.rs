//! Names of classes by which each is known.

use std::collections::HashMap;

/// Names, in the order of the logits. A name that several classes have gets each one's number behind it (ImageNet calls a bird
/// and a machine crane): folders, memories and answers know classes by their names.
pub(crate) fn distinct(names: Vec<String>) -> Vec<String> {
    let mut counts: HashMap<String, usize> = HashMap::new();
    for name in &names {
        *counts.entry(name.clone()).or_default() += 1;
    }
    let named = names.into_iter().enumerate().map(|(class, name)| {
        if counts[&name] > 1 {
            format!("{name} ({class})")
        } else {
            name
        }
    });
    named.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_two_classes_gets_their_numbers() {
        let names = ["ant", "crane", "bee", "crane"].map(String::from).to_vec();
        let found = distinct(names);
        assert_eq!(found, ["ant", "crane (1)", "bee", "crane (3)"]);
        assert_eq!(distinct(found.clone()), found);
    }
}
