//! The two flatbuffers of a `network.rpk`: `ap_params` for the host, `dnn_params` for the sensor.

use super::flatbuffer::{At, Builder, Field, Table};
use crate::dnn_params::{
    Dimension, DnnParams, DnnTensor, MAX_DIMENSIONS, MAX_TENSORS, MemoryMap, Network, wrong_ordinal,
};
use crate::refusal::Refusal;

/// The same with tensor names cut to their last 20 characters, which is all that the tables hold.
pub(super) fn with_short_names(mut params: DnnParams) -> DnnParams {
    for network in &mut params.networks {
        for tensor in network.inputs.iter_mut().chain(&mut network.outputs) {
            let n_chars = tensor.name.chars().count();
            tensor.name = tensor.name.chars().skip(n_chars.saturating_sub(20)).collect();
        }
    }
    params
}

/// The table for the host: tensors without places.
pub(super) fn ap_params(params: &DnnParams) -> Result<Vec<u8>, Refusal> {
    let mut builder = Builder::new();
    let networks = networks(&mut builder, params, ap_tensor)?;
    let root = builder.table(&[(0, Field::Offset(networks))]);
    Ok(builder.finish(root))
}

/// The table for the sensor: tensors with places, and the memory.
pub(super) fn dnn_params(params: &DnnParams) -> Result<Vec<u8>, Refusal> {
    let mut builder = Builder::new();
    let networks = networks(&mut builder, params, dnn_tensor)?;
    let MemoryMap { total, coefficients, reserved, runtime } = params.memory;
    let memory = [(3, coefficients), (2, runtime), (1, reserved), (0, total)];
    let memory = builder.table(&memory.map(|(slot, bytes)| (slot, Field::U32(bytes))));
    let root = builder.table(&[(1, Field::Offset(memory)), (0, Field::Offset(networks))]);
    Ok(builder.finish(root))
}

/// What `dnn_params` holds; tensors in the order in which they were written.
pub(super) fn parse(bytes: &[u8]) -> Result<DnnParams, Refusal> {
    let root = Table::root(bytes)?;
    let memory = root.table(1)?;
    Ok(DnnParams {
        networks: read_networks(&root, dnn_fields)?,
        memory: MemoryMap {
            total: memory.u32(0)?,
            reserved: memory.u32(1)?,
            runtime: memory.u32(2)?,
            coefficients: memory.u32(3)?,
        },
    })
}

/// Refuses an `ap_params` that says something else of the tensors than `params`, which `dnn_params` holds.
pub(super) fn check_ap(bytes: &[u8], params: &DnnParams) -> Result<(), Refusal> {
    let by_ordinal = |mut networks: Vec<Network>| {
        networks.iter_mut().for_each(|network| network.outputs.sort_by_key(|output| output.ordinal));
        networks
    };
    let found = by_ordinal(read_networks(&Table::root(bytes)?, ap_fields)?);
    let mut expected = by_ordinal(params.networks.clone());
    for network in &mut expected {
        network.inputs.iter_mut().for_each(|input| input.bits = 0);
        for tensor in network.inputs.iter_mut().chain(&mut network.outputs) {
            (tensor.l2_offset, tensor.kept) = (0, false);
        }
    }
    if found == expected {
        return Ok(());
    }
    let names = |networks: &[Network]| {
        let tensors = networks.iter().flat_map(|network| network.inputs.iter().chain(&network.outputs));
        tensors.map(|tensor| tensor.name.clone()).collect::<Vec<_>>().join(", ")
    };
    let (expected, found) = (names(&expected), names(&found));
    Err(Refusal::key("tensors", format!("{expected} as dnn_params has them"), format!("{found} with other values")))
}

type ReadTensor = fn(&Table, bool) -> Result<DnnTensor, Refusal>;

fn read_networks(root: &Table, read: ReadTensor) -> Result<Vec<Network>, Refusal> {
    let tensors = |network: &Table, slot: usize, is_input: bool| -> Result<Vec<DnnTensor>, Refusal> {
        let mut tables = network.tables(slot, MAX_TENSORS)?;
        // A builder writes from the end to the start: the first table that it made lies last.
        tables.sort_by_key(|table| std::cmp::Reverse(table.offset()));
        let tensors = tables.iter().map(|table| read(table, is_input)).collect::<Result<Vec<_>, _>>()?;
        let ordinals: Vec<u8> = tensors.iter().map(|tensor| tensor.ordinal).collect();
        match wrong_ordinal(&ordinals) {
            Some(idx) => {
                let expected = format!("a tensor of each ordinal from 0 to {}", tensors.len() - 1);
                Err(Refusal::byte(tables[idx].offset(), expected, format!("ordinal {}", ordinals[idx])))
            }
            None => Ok(tensors),
        }
    };
    let network = |table: &Table| -> Result<Network, Refusal> {
        Ok(Network {
            name: table.string(1)?,
            kind: table.string(2)?,
            inputs: tensors(table, 3, true)?,
            outputs: tensors(table, 4, false)?,
        })
    };
    let networks = root.tables(0, MAX_TENSORS)?;
    check_one(networks.len())?;
    networks.iter().map(network).collect()
}

fn dnn_fields(table: &Table, is_input: bool) -> Result<DnnTensor, Refusal> {
    Ok(DnnTensor {
        ordinal: table.u8(0)?,
        name: table.string(1)?,
        dimensions: read_dimensions(table)?,
        l2_offset: table.u32(4)?,
        bits: table.u8(5)?,
        shift: table.u16(6)?,
        scale: f64::from(table.f32(7)?),
        signed: table.u8(8)? == 0,
        kept: is_input && table.u8(9)? == 1,
    })
}

fn ap_fields(table: &Table, is_input: bool) -> Result<DnnTensor, Refusal> {
    // Outputs have their bits in slot 4, and what follows one slot later.
    let later = usize::from(!is_input);
    Ok(DnnTensor {
        ordinal: table.u8(0)?,
        name: table.string(1)?,
        dimensions: read_dimensions(table)?,
        l2_offset: 0,
        bits: if is_input { 0 } else { table.u8(4)? },
        shift: table.u16(4 + later)?,
        scale: f64::from(table.f32(5 + later)?),
        signed: table.u8(6 + later)? == 0,
        kept: false,
    })
}

fn read_dimensions(table: &Table) -> Result<Vec<Dimension>, Refusal> {
    let dimension = |table: &Table| -> Result<Dimension, Refusal> {
        Ok(Dimension { size: table.u16(1)?, serialization: table.u8(2)?, padding: table.u8(3)? })
    };
    table.tables(3, MAX_DIMENSIONS)?.iter().map(dimension).collect()
}

type WriteTensor = fn(&mut Builder, &DnnTensor, Parts, bool) -> At;

/// Where a tensor's dimensions and name are.
struct Parts {
    dimensions: At,
    name: At,
}

fn networks(builder: &mut Builder, params: &DnnParams, write: WriteTensor) -> Result<At, Refusal> {
    check_one(params.networks.len())?;
    let network = &params.networks[0];
    check_ordinals(&network.outputs)?;
    // Tables in the order of the converter's list, references to them by ordinal.
    let mut tensors = |tensors: &[DnnTensor], is_input: bool| -> Vec<At> {
        let mut one = |tensor: &DnnTensor| {
            let dimensions: Vec<At> =
                tensor.dimensions.iter().enumerate().map(|side| dimension(builder, side)).collect();
            let parts = Parts { dimensions: builder.vector(&dimensions), name: builder.string(&tensor.name) };
            (tensor.ordinal, write(builder, tensor, parts, is_input))
        };
        let mut tables: Vec<(u8, At)> = tensors.iter().map(&mut one).collect();
        tables.sort_by_key(|(ordinal, _)| *ordinal);
        tables.into_iter().map(|(_, table)| table).collect()
    };
    let (inputs, outputs) = (tensors(&network.inputs, true), tensors(&network.outputs, false));
    let (name, kind) = (builder.string(&network.name), builder.string(&network.kind));
    let (inputs, outputs) = (builder.vector(&inputs), builder.vector(&outputs));
    let fields = [(4, outputs), (3, inputs), (2, kind), (1, name)].map(|(slot, at)| (slot, Field::Offset(at)));
    let network = builder.table(&fields);
    Ok(builder.vector(&[network]))
}

/// What our own reader takes.
fn check_ordinals(outputs: &[DnnTensor]) -> Result<(), Refusal> {
    if outputs.len() > MAX_TENSORS {
        let expected = format!("at most {MAX_TENSORS} outputs");
        return Err(Refusal::key("outputTensors", expected, outputs.len().to_string()));
    }
    let ordinals: Vec<u8> = outputs.iter().map(|output| output.ordinal).collect();
    match wrong_ordinal(&ordinals) {
        Some(idx) => {
            let expected = format!("each ordinal from 0 to {} once", outputs.len() - 1);
            Err(Refusal::key("outputTensors", expected, format!("{ordinals:?}, of which {} is wrong", ordinals[idx])))
        }
        None => Ok(()),
    }
}

fn check_one(n_networks: usize) -> Result<(), Refusal> {
    if n_networks == 1 {
        return Ok(());
    }
    Err(Refusal::key("networks", "1: the layout of several is not known", n_networks.to_string()))
}

fn dimension(builder: &mut Builder, (idx, side): (usize, &Dimension)) -> At {
    let Dimension { size, serialization, padding } = *side;
    builder.table(&[
        (1, Field::U16(size)),
        (3, Field::U8(padding)),
        (2, Field::U8(serialization)),
        (0, Field::U8(idx as u8)),
    ])
}

fn ap_tensor(builder: &mut Builder, tensor: &DnnTensor, parts: Parts, is_input: bool) -> At {
    // Outputs have their bits in slot 4, and what follows one slot later.
    let later = usize::from(!is_input);
    let bits = if is_input { 0 } else { tensor.bits };
    builder.table(&[
        (5 + later, Field::F32(tensor.scale as f32)),
        (3, Field::Offset(parts.dimensions)),
        (1, Field::Offset(parts.name)),
        (4 + later, Field::U16(tensor.shift)),
        (6 + later, Field::U8(u8::from(!tensor.signed))),
        (4, Field::U8(bits)),
        (2, Field::U8(tensor.dimensions.len() as u8)),
        (0, Field::U8(tensor.ordinal)),
    ])
}

fn dnn_tensor(builder: &mut Builder, tensor: &DnnTensor, parts: Parts, is_input: bool) -> At {
    builder.table(&[
        (7, Field::F32(tensor.scale as f32)),
        (4, Field::U32(tensor.l2_offset)),
        (3, Field::Offset(parts.dimensions)),
        (1, Field::Offset(parts.name)),
        (6, Field::U16(tensor.shift)),
        (9, Field::U8(u8::from(is_input && tensor.kept))),
        (8, Field::U8(u8::from(!tensor.signed))),
        (5, Field::U8(tensor.bits)),
        (2, Field::U8(tensor.dimensions.len() as u8)),
        (0, Field::U8(tensor.ordinal)),
    ])
}
