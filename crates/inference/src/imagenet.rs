//! The classes of ImageNet-1k, by which most published weights are named that name none.

/// How many they are.
pub(crate) const CLASSES: usize = 1000;

/// A line for each, in the order of the logits: its WordNet id, a tab, its names.
const LIST: &str = include_str!("imagenet_classes.txt");

/// The names of each, in the order of the logits.
pub(crate) fn class_names() -> Vec<String> {
    let lines = LIST.lines().filter_map(|line| line.split_once('\t'));
    lines.map(|(_, name)| name.to_string()).collect()
}

/// The WordNet ids after which ImageNet's folders are named, in the order of the logits, where these are its classes.
pub fn imagenet_ids(class_names: &[String]) -> Option<Vec<&'static str>> {
    let lines: Vec<_> = LIST
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .collect();
    let listed = lines.iter().map(|(_, name)| *name);
    let is_imagenet = class_names.iter().map(String::as_str).eq(listed);
    is_imagenet.then(|| lines.into_iter().map(|(id, _)| id).collect())
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
    }
}
