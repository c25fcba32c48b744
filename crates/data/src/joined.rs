//! Several annotation files as one data set: annotations by people, and proposals of a teacher on the same images or on others.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::dataset::{Category, Dataset};
use crate::geometry::Size;

/// One annotation file of a data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetPart {
    /// The file.
    pub annotations_path: PathBuf,
    /// BLAKE3 of its bytes.
    pub digest: [u8; 32],
    /// Index of its first instance; they are followed by those of the next part.
    pub first_instance: usize,
    /// Digest of the teacher that drew the masks, in place of a person: `info.proposed_by` of a file of `sensei teacher propose`.
    pub proposed_by: Option<String>,
    /// Digest of the annotation file, in hexadecimal, whose images the pictures were composed of: `info.composed_of` of a file of
    /// `sensei data paste`.
    pub composed_of: Option<String>,
}

/// Two annotation files that cannot be one data set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// An annotation's id would no longer say which one it is.
    #[error("{}: annotation {id}: expected an id that {} does not have", path.display(), other.display())]
    AnnotationId {
        /// The file that was to be joined.
        path: PathBuf,
        /// A file that was there before.
        other: PathBuf,
        /// The id that both have.
        id: u64,
    },
    /// One id for two image files.
    #[error("{}: image {id}: expected {}, which it is in the other annotations, found {}", path.display(), expected.display(), found.display())]
    ImageId {
        /// The file that was to be joined.
        path: PathBuf,
        /// The id.
        id: u64,
        /// Image file of that id before.
        expected: PathBuf,
        /// Its image file.
        found: PathBuf,
    },
    /// One image file with two sizes.
    #[error("{}: image {id}: expected {expected}, as the other annotations say of this file, found {found}", path.display())]
    ImageSize {
        /// The file that was to be joined.
        path: PathBuf,
        /// The image's id.
        id: u64,
        /// Stated before.
        expected: Size,
        /// Stated in it.
        found: Size,
    },
}

impl Dataset {
    /// Takes the images, categories and instances of another annotation file in, behind those that are here.
    ///
    /// An image is the same if its file's path is. Categories are the same if their names are; others get new ids where theirs are taken. The
    /// digest is one of both files'.
    ///
    /// # Errors
    /// If ids of annotations or images contradict each other, or sizes do. The data set is as it was then.
    pub fn join(&mut self, other: Dataset) -> Result<(), JoinError> {
        let image_idxs = self.check_images(&other)?;
        let own_ids: BTreeMap<u64, usize> = self.instances.iter().enumerate().map(|(idx, i)| (i.id, idx)).collect();
        let unusable_ids: BTreeSet<u64> = self.unusable.iter().filter_map(|bad| bad.annotation_id()).collect();
        let ids = other.instances.iter().map(|instance| instance.id);
        let mut ids = ids.chain(other.unusable.iter().filter_map(|bad| bad.annotation_id()));
        if let Some(id) = ids.find(|id| own_ids.contains_key(id) || unusable_ids.contains(id)) {
            let before = own_ids.get(&id).map_or(&self.annotations_path, |&idx| &self.part(idx).annotations_path);
            return Err(JoinError::AnnotationId { path: other.annotations_path, other: before.clone(), id });
        }
        let category_ids = self.join_categories(&other.categories);
        let mut joined_idxs = vec![];
        for (idx, known) in image_idxs.into_iter().enumerate() {
            joined_idxs.push(known.unwrap_or(self.images.len()));
            if known.is_none() {
                let mut image = other.images[idx].clone();
                for id in image.neg_category_ids.iter_mut().chain(&mut image.not_exhaustive_category_ids) {
                    *id = category_ids[id];
                }
                if self.images_dir != other.images_dir {
                    image.images_dir.get_or_insert_with(|| other.images_dir.clone());
                }
                self.images.push(image);
            }
        }
        let n_before = self.instances.len();
        self.parts.extend(
            other.parts.into_iter().map(|part| DatasetPart { first_instance: n_before + part.first_instance, ..part }),
        );
        self.instances.extend(other.instances.into_iter().map(|mut instance| {
            instance.image_idx = joined_idxs[instance.image_idx];
            instance.category_id = category_ids[&instance.category_id];
            instance
        }));
        self.unusable.extend(other.unusable);
        self.digest = *blake3::hash(&[self.digest, other.digest].concat()).as_bytes();
        Ok(())
    }

    /// Which of the [parts](Self::parts) an instance is of.
    pub fn part_idx(&self, instance_idx: usize) -> usize {
        self.parts.partition_point(|part| part.first_instance <= instance_idx).saturating_sub(1)
    }

    /// The annotation file that an instance is of.
    pub fn part(&self, instance_idx: usize) -> &DatasetPart {
        &self.parts[self.part_idx(instance_idx)]
    }

    /// For each image of another data set the index of the same one here, if there is one.
    fn check_images(&self, other: &Dataset) -> Result<Vec<Option<usize>>, JoinError> {
        let path_of = Dataset::image_path;
        let by_path: BTreeMap<PathBuf, usize> = (0..self.images.len()).map(|idx| (path_of(self, idx), idx)).collect();
        let by_id: BTreeMap<u64, usize> = self.images.iter().enumerate().map(|(idx, image)| (image.id, idx)).collect();
        let find = |(idx, image): (usize, &crate::dataset::ImageRecord)| {
            let (path, id, found) = (other.annotations_path.clone(), image.id, path_of(other, idx));
            match (by_path.get(&found).copied(), by_id.get(&id).copied()) {
                (Some(known), _) if self.images[known].size != image.size => {
                    let expected = self.images[known].size;
                    Err(JoinError::ImageSize { path, id, expected, found: image.size })
                }
                (Some(known), _) => Ok(Some(known)),
                (None, Some(known)) => Err(JoinError::ImageId { path, id, expected: path_of(self, known), found }),
                (None, None) => Ok(None),
            }
        };
        other.images.iter().enumerate().map(find).collect()
    }

    /// The ids here of another file's categories.
    fn join_categories(&mut self, others: &[Category]) -> BTreeMap<u64, u64> {
        let mut ids = BTreeMap::new();
        for other in others {
            let same = self.categories.iter().find(|category| category.name == other.name).map(|category| category.id);
            let id = same.unwrap_or_else(|| {
                let is_taken = |id| self.categories.iter().any(|category| category.id == id);
                let all = self.categories.iter().chain(others).map(|category| category.id);
                let free = all.max().map_or(0, |largest| largest + 1);
                let id = if is_taken(other.id) { free } else { other.id };
                self.categories.push(Category { id, ..other.clone() });
                id
            });
            ids.insert(other.id, id);
        }
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::{ImageRecord, Instance, Segmentation};

    /// A data set of these images (id, file, width), categories and annotations (id, image, category).
    fn dataset(
        name: &str,
        images: &[(u64, &str, u32)],
        categories: &[(u64, &str)],
        instances: &[(u64, usize, u64)],
    ) -> Dataset {
        let image = |&(id, file, width): &(u64, &str, u32)| ImageRecord {
            id,
            file_name: file.into(),
            images_dir: None,
            size: Size { width, height: 10 },
            neg_category_ids: vec![],
            not_exhaustive_category_ids: vec![],
        };
        let instance = |&(id, image_idx, category_id): &(u64, usize, u64)| Instance {
            id,
            image_idx,
            category_id,
            bbox: [0.0, 0.0, 2.0, 2.0],
            area: 4.0,
            is_crowd: false,
            segmentation: Segmentation::NotRead,
        };
        let (annotations_path, digest) =
            (PathBuf::from(format!("{name}.json")), *blake3::hash(name.as_bytes()).as_bytes());
        Dataset {
            parts: vec![DatasetPart {
                annotations_path: annotations_path.clone(),
                digest,
                first_instance: 0,
                proposed_by: None,
                composed_of: None,
            }],
            annotations_path,
            images_dir: PathBuf::from("/images"),
            images: images.iter().map(image).collect(),
            categories: categories
                .iter()
                .map(|&(id, name)| Category { id, name: name.into(), frequency: None })
                .collect(),
            instances: instances.iter().map(instance).collect(),
            unusable: vec![],
            digest,
        }
    }

    fn annotated() -> Dataset {
        dataset(
            "annotated",
            &[(1, "a.jpg", 10), (2, "b.jpg", 10)],
            &[(1, "person"), (4, "cat")],
            &[(7, 0, 1), (8, 1, 4)],
        )
    }

    #[test]
    fn images_of_one_file_are_one_and_categories_go_by_name() {
        let mut joined = annotated();
        let other = dataset(
            "proposals",
            &[(2, "b.jpg", 10), (3, "c.jpg", 20)],
            &[(1, "object"), (9, "cat")],
            &[(70, 0, 1), (71, 1, 9), (72, 1, 1)],
        );
        let digest = other.digest;
        joined.join(other).unwrap();
        let files: Vec<&str> = joined.images.iter().map(|image| image.file_name.as_str()).collect();
        assert_eq!(files, ["a.jpg", "b.jpg", "c.jpg"]);
        let found: Vec<_> = joined.instances.iter().map(|i| (i.id, i.image_idx, i.category_id)).collect();
        // "object" has a new id, since 1 is a person.
        assert_eq!(found, [(7, 0, 1), (8, 1, 4), (70, 1, 10), (71, 2, 4), (72, 2, 10)]);
        assert_eq!(joined.categories.len(), 3);
        let parts: Vec<usize> = (0..5).map(|idx| joined.part_idx(idx)).collect();
        assert_eq!(parts, [0, 0, 1, 1, 1]);
        assert_eq!(joined.part(4).annotations_path, PathBuf::from("proposals.json"));
        assert_eq!(joined.digest, *blake3::hash(&[annotated().digest, digest].concat()).as_bytes());
        joined.join(dataset("third", &[(1, "a.jpg", 10)], &[(5, "dog")], &[(90, 0, 5)])).unwrap();
        assert_eq!((joined.part_idx(5), joined.parts[2].first_instance, joined.instances[5].image_idx), (2, 5, 0));
    }

    #[test]
    fn images_of_another_folder_are_found_there() {
        let mut joined = annotated();
        let mut other = dataset("elsewhere", &[(3, "a.jpg", 10)], &[], &[]);
        other.images_dir = PathBuf::from("/elsewhere");
        joined.join(other).unwrap();
        assert_eq!(joined.image_path(2), PathBuf::from("/elsewhere/a.jpg"));
    }

    #[test]
    fn contradictions_are_named_and_nothing_is_taken() {
        let refused = |other: Dataset, words: &str| {
            let mut joined = annotated();
            let error = joined.join(other).unwrap_err().to_string();
            assert_eq!(error, words);
            assert_eq!(joined, annotated());
        };
        refused(
            dataset("other", &[(1, "a.jpg", 10)], &[(1, "person")], &[(8, 0, 1)]),
            "other.json: annotation 8: expected an id that annotated.json does not have",
        );
        refused(
            dataset("other", &[(1, "c.jpg", 10)], &[], &[]),
            "other.json: image 1: expected /images/a.jpg, which it is in the other annotations, found /images/c.jpg",
        );
        refused(
            dataset("other", &[(5, "a.jpg", 12)], &[], &[]),
            "other.json: image 5: expected 10 x 10, as the other annotations say of this file, found 12 x 10",
        );
    }
}
