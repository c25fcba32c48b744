//! Mask logits of an object as bytes. Layout: `docs/formats/teacher-cache.md`.

use sensei_data::geometry::{PointInImage, RectInImage};

use crate::kept::RecordKind;
use crate::record::{
    MAX_POINTS, MaskAnswer, MaskRecord, PointLabel, PromptAnswer, PromptPoint, RecordFault, check_shape,
};
use crate::record_bytes::{Fields, begin, parse_start, seal};

impl MaskRecord {
    /// The record as it stands in a shard.
    ///
    /// # Errors
    /// If a field is outside of what the format allows.
    pub fn to_bytes(&self) -> Result<Vec<u8>, RecordFault> {
        self.check()?;
        let mut bytes = Vec::new();
        append(self, &mut bytes);
        Ok(bytes)
    }

    /// Reads the record that fills `bytes` exactly. What is allocated is checked against `bytes` or a limit before.
    ///
    /// # Errors
    /// If the record is damaged, of another kind, or holds what no record may.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RecordFault> {
        let start = parse_start(bytes, RecordKind::MaskLogits)?;
        let (n_prompts, mut fields) = (start.shape as usize, start.fields);
        let (n_masks, grid, logit_step) = (fields.u32()? as usize, fields.u32()?, fields.f32()?);
        check_shape(grid, n_prompts, n_masks)?;
        let prompts = (0..n_prompts).map(|_| parse_prompt(&mut fields, n_masks, grid)).collect::<Result<_, _>>()?;
        fields.end()?;
        let record = MaskRecord { annotation_id: start.id, image: start.image, grid, logit_step, prompts };
        record.check()?;
        Ok(record)
    }
}

/// Appends a record that has passed its check.
pub(crate) fn append(record: &MaskRecord, shard: &mut Vec<u8>) {
    let kind = RecordKind::MaskLogits;
    let start = begin(shard, kind, record.prompts.len() as u32, record.annotation_id, &record.image);
    shard.extend((record.n_masks() as u32).to_le_bytes());
    shard.extend(record.grid.to_le_bytes());
    shard.extend(record.logit_step.to_le_bytes());
    for prompt in &record.prompts {
        let rect = prompt.rect_in_image;
        [rect.x0, rect.y0, rect.x1, rect.y1].iter().for_each(|edge| shard.extend(edge.to_le_bytes()));
        shard.extend((prompt.points.len() as u32).to_le_bytes());
        for point in &prompt.points {
            shard.extend(point.at.x.to_le_bytes());
            shard.extend(point.at.y.to_le_bytes());
            shard.extend((point.label as u32).to_le_bytes());
        }
        for mask in &prompt.masks {
            let logits: Vec<u8> = mask.logits.iter().map(|&logit| logit.cast_unsigned()).collect();
            let logits = lz4_flex::block::compress(&logits);
            shard.extend(mask.predicted_iou.to_le_bytes());
            shard.extend(mask.stability.unwrap_or(NO_STABILITY).to_le_bytes());
            shard.extend((logits.len() as u32).to_le_bytes());
            shard.extend(logits);
        }
    }
    seal(shard, start);
}

fn parse_prompt(fields: &mut Fields, n_masks: usize, grid: u32) -> Result<PromptAnswer, RecordFault> {
    let rect_in_image = RectInImage { x0: fields.f64()?, y0: fields.f64()?, x1: fields.f64()?, y1: fields.f64()? };
    let n_points = fields.u32()? as usize;
    if n_points > MAX_POINTS {
        return Err(RecordFault::new("points", format!("at most {MAX_POINTS}"), n_points.to_string()));
    }
    let points = (0..n_points).map(|_| parse_point(fields)).collect::<Result<_, _>>()?;
    let masks = (0..n_masks).map(|_| parse_mask(fields, grid)).collect::<Result<_, _>>()?;
    Ok(PromptAnswer { points, rect_in_image, masks })
}

fn parse_point(fields: &mut Fields) -> Result<PromptPoint, RecordFault> {
    let at = PointInImage { x: fields.f64()?, y: fields.f64()? };
    let code = fields.u32()?;
    let label = PointLabel::from_code(code).ok_or_else(|| RecordFault::new("label", "0 to 3", code.to_string()))?;
    Ok(PromptPoint { at, label })
}

fn parse_mask(fields: &mut Fields, grid: u32) -> Result<MaskAnswer, RecordFault> {
    let predicted_iou = fields.f32()?;
    let stability = Some(fields.f32()?).filter(|stability| stability.to_bits() != NO_STABILITY.to_bits());
    let n_compressed = fields.u32()? as usize;
    let compressed = fields.bytes(n_compressed)?;
    let mut logits = vec![0; (grid * grid) as usize];
    match lz4_flex::block::decompress_into(compressed, &mut logits) {
        Ok(n) if n == logits.len() => {}
        Ok(n) => return Err(RecordFault::new("logits", format!("{} values", logits.len()), format!("{n} values"))),
        Err(error) => {
            return Err(RecordFault::new("logits", format!("{} values in LZ4", logits.len()), error.to_string()));
        }
    }
    Ok(MaskAnswer { logits: logits.into_iter().map(u8::cast_signed).collect(), predicted_iou, stability })
}

/// Stands for a stability that was not measured.
const NO_STABILITY: f32 = -1.0;
