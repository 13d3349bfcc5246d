//! The classes of ImageNet-1k, by which most published weights are named that name none.

use crate::class_names::distinct;

/// How many they are.
pub(crate) const CLASSES: usize = 1000;

/// A line for each, in the order of the logits: its WordNet id, a tab, its names.
const LIST: &str = include_str!("imagenet_classes.txt");

fn lines() -> impl Iterator<Item = (&'static str, &'static str)> {
    LIST.lines().filter_map(|line| line.split_once('\t'))
}

/// The names of each, in the order of the logits.
pub(crate) fn class_names() -> Vec<String> {
    distinct(lines().map(|(_, name)| name.to_string()).collect())
}

/// The WordNet ids after which ImageNet's folders are named, in the order of the logits, where these are its classes.
pub fn imagenet_ids(class_names: &[String]) -> Option<Vec<&'static str>> {
    let is_imagenet = class_names == self::class_names();
    is_imagenet.then(|| lines().map(|(id, _)| id).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_classes_are_in_the_order_of_their_ids() {
        let names = class_names();
        assert_eq!(names.len(), CLASSES);
        assert!(names[207].starts_with("golden retriever"), "{}", names[207]);
        let ids = imagenet_ids(&names).unwrap();
        assert!(ids.is_sorted() && ids[0] == "n01440764");
        assert_eq!(imagenet_ids(&names[1..]), None);
        assert_eq!((&*names[134], &*names[517]), ("crane (134)", "crane (517)"));
    }
}
