//! What JavaScript calls. The page writes bytes into [`sensei_buffer`] and calls a function that reads them; a function that can fail returns 0
//! when it is done and 1 when it is not, and then `sensei_message` says why.
//!
//! One page, one thread, one model at a time: the state is global.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::session::{Answer, Refusal, Session};

/// What is between two calls.
struct State {
    buffer: Vec<u8>,
    session: Option<Session>,
    answer: Option<Answer>,
    logits: Vec<f32>,
    region: [f64; 4],
    message: String,
}

static STATE: Mutex<State> = Mutex::new(State {
    buffer: vec![],
    session: None,
    answer: None,
    logits: vec![],
    region: [0.0; 4],
    message: String::new(),
});

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn done(state: &mut State, result: Result<(), Refusal>) -> u32 {
    match result {
        Ok(()) => 0,
        Err(Refusal(message)) => {
            state.message = message;
            1
        }
    }
}

/// Room for this many bytes, which the next call reads. It moves with every call of this function.
#[unsafe(no_mangle)]
pub extern "C" fn sensei_buffer(len: usize) -> *mut u8 {
    let mut state = state();
    state.buffer.clear();
    state.buffer.resize(len, 0);
    state.buffer.as_mut_ptr()
}

/// Takes a model: the buffer has the `.s8m` file, `model_len` bytes, and then the name of its crop rule.
#[unsafe(no_mangle)]
pub extern "C" fn sensei_open(model_len: usize) -> u32 {
    let state = &mut *state();
    let (model, crop) = state.buffer.split_at(model_len.min(state.buffer.len()));
    let crop = String::from_utf8_lossy(crop).into_owned();
    let opened = Session::open(model, &crop);
    let result = opened.map(|session| state.session = Some(session));
    state.buffer = vec![];
    done(state, result)
}

/// Sides of the model's input; 0 without a model.
#[unsafe(no_mangle)]
pub extern "C" fn sensei_input_side() -> u32 {
    state().session.as_ref().map_or(0, |session| session.input_side() as u32)
}

/// 1 if the model is asked by boxes alone.
#[unsafe(no_mangle)]
pub extern "C" fn sensei_needs_box() -> u32 {
    state().session.as_ref().map_or(0, |session| u32::from(session.needs_box()))
}

/// Takes a picture: the buffer has four bytes a pixel, as a canvas has them.
#[unsafe(no_mangle)]
pub extern "C" fn sensei_show(width: u32, height: u32) -> u32 {
    let state = &mut *state();
    let rgba = std::mem::take(&mut state.buffer);
    let result = with_model(state).and_then(|session| session.show(&rgba, width, height));
    done(state, result)
}

/// Answers a box in pixels of the picture.
#[unsafe(no_mangle)]
pub extern "C" fn sensei_answer_box(x: f64, y: f64, width: f64, height: f64) -> u32 {
    let state = &mut *state();
    let answer = with_model(state).and_then(|session| session.answer_box([x, y, width, height]));
    take(state, answer)
}

/// Answers a point in pixels of the picture.
#[unsafe(no_mangle)]
pub extern "C" fn sensei_answer_point(x: f64, y: f64) -> u32 {
    let state = &mut *state();
    let answer = with_model(state).and_then(|session| session.answer_point([x, y]));
    take(state, answer)
}

fn take(state: &mut State, answer: Result<Answer, Refusal>) -> u32 {
    let result = answer.map(|answer| {
        let rect = answer.geometry.rect_in_image;
        state.region = [rect.x0, rect.y0, rect.x1 - rect.x0, rect.y1 - rect.y0];
        state.answer = Some(answer);
    });
    done(state, result)
}

fn with_model(state: &mut State) -> Result<&mut Session, Refusal> {
    state.session.as_mut().ok_or_else(|| Refusal("expected a model, found none".into()))
}

/// The last answer's mask: a byte a pixel of the picture, 1 for the object.
#[unsafe(no_mangle)]
pub extern "C" fn sensei_mask() -> *const u8 {
    state().answer.as_ref().map_or(std::ptr::null(), |answer| answer.mask.bits.as_ptr())
}

/// The last answer's score, in `[0, 1]`.
#[unsafe(no_mangle)]
pub extern "C" fn sensei_score() -> f64 {
    state().answer.as_ref().map_or(0.0, |answer| answer.score)
}

/// What of the picture the last answer saw: x, y, width, height as four doubles.
#[unsafe(no_mangle)]
pub extern "C" fn sensei_region() -> *const f64 {
    state().region.as_ptr()
}

/// Runs the network on an input of the chip: the buffer has its signed bytes, channel by channel. `sensei_logits` has the output.
#[unsafe(no_mangle)]
pub extern "C" fn sensei_run() -> u32 {
    let state = &mut *state();
    let input: Vec<i16> =
        std::mem::take(&mut state.buffer).into_iter().map(|byte| i16::from(byte.cast_signed())).collect();
    let logits = with_model(state).and_then(|session| session.logits(&input));
    let result = logits.map(|logits| state.logits = logits);
    done(state, result)
}

/// The output of `sensei_run`: logits row by row, floats.
#[unsafe(no_mangle)]
pub extern "C" fn sensei_logits() -> *const f32 {
    state().logits.as_ptr()
}

/// Why the last call failed: UTF-8 of `sensei_message_len` bytes.
#[unsafe(no_mangle)]
pub extern "C" fn sensei_message() -> *const u8 {
    state().message.as_ptr()
}

/// Bytes of `sensei_message`.
#[unsafe(no_mangle)]
pub extern "C" fn sensei_message_len() -> usize {
    state().message.len()
}
