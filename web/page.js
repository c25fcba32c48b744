"use strict";
(async () => {
  const facts = JSON.parse(document.getElementById("facts").textContent);
  const element = (id) => document.getElementById(id);
  const bytesOf = (base64) => Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const { instance } = await WebAssembly.instantiate(bytesOf(facts.program), {});
  const sensei = instance.exports;
  // The program's memory moves when it grows: views are made anew for each use.
  const view = (Kind, at, len) => new Kind(sensei.memory.buffer, at, len);
  const write = (bytes) => view(Uint8Array, sensei.sensei_buffer(bytes.length), bytes.length).set(bytes);
  const message = () => new TextDecoder().decode(view(Uint8Array, sensei.sensei_message(), sensei.sensei_message_len()));
  const check = (failed) => { if (failed) throw new Error(message()); };

  const open = (model, crop) => {
    const name = new TextEncoder().encode(crop);
    const bytes = new Uint8Array(model.length + name.length);
    bytes.set(model);
    bytes.set(name, model.length);
    write(bytes);
    check(sensei.sensei_open(model.length));
  };
  /** The network's logits for an input of the chip. */
  const run = (input) => {
    write(new Uint8Array(input.buffer, input.byteOffset, input.length));
    check(sensei.sensei_run());
    const side = sensei.sensei_input_side();
    return Float32Array.from(view(Float32Array, sensei.sensei_logits(), side * side));
  };

  const image = element("image");
  const overlay = element("overlay");
  const pixels = image.getContext("2d", { willReadFrequently: true });
  const drawing = overlay.getContext("2d");
  let box = null;
  let mask = null;

  const say = (words) => { element("said").textContent = words; };
  const numbers = ["x", "y", "w", "h"].map(element);

  const show = (source, width, height) => {
    const scale = Math.min(1, MOST_PIXELS / Math.max(width, height));
    const [shownWidth, shownHeight] = [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
    if (image.width !== shownWidth || image.height !== shownHeight) {
      for (const canvas of [image, overlay]) [canvas.width, canvas.height] = [shownWidth, shownHeight];
    }
    pixels.drawImage(source, 0, 0, shownWidth, shownHeight);
    const { data } = pixels.getImageData(0, 0, shownWidth, shownHeight);
    write(data);
    check(sensei.sensei_show(shownWidth, shownHeight));
    return scale < 1 ? `The picture of ${width} x ${height} is shown at ${shownWidth} x ${shownHeight}. ` : "";
  };

  const paint = () => {
    drawing.clearRect(0, 0, overlay.width, overlay.height);
    if (mask) {
      const tinted = drawing.createImageData(overlay.width, overlay.height);
      // A word a pixel: red 255, green 120, blue 0, opacity 140, from the lowest byte on.
      const words = new Uint32Array(tinted.data.buffer);
      for (let at = 0; at < mask.length; at += 1) if (mask[at]) words[at] = 0x8c0078ff;
      drawing.putImageData(tinted, 0, 0);
    }
    if (box) {
      const line = Math.max(2, overlay.width / 400);
      for (const [colour, width] of [["#000", 2 * line], ["#fff", line]]) {
        [drawing.strokeStyle, drawing.lineWidth] = [colour, width];
        drawing.strokeRect(...box);
      }
    }
  };

  /** Asks about the box, and says what came. */
  const answer = (before = "") => {
    mask = null;
    if (box) {
      const started = performance.now();
      const [x, y, width, height] = box;
      try {
        check(sensei.sensei_needs_box() ? sensei.sensei_answer_box(x, y, width, height)
          : sensei.sensei_answer_point(x + width / 2, y + height / 2));
        const took = performance.now() - started;
        mask = Uint8Array.from(view(Uint8Array, sensei.sensei_mask(), image.width * image.height));
        let area = 0;
        for (let at = 0; at < mask.length; at += 1) area += mask[at];
        say(`${before}Mask of ${area} pixels, score ${sensei.sensei_score().toFixed(3)}, ${took.toFixed(0)} ms.`);
      } catch (error) {
        say(before + error.message);
      }
      numbers.forEach((input, at) => { if (input !== document.activeElement) input.value = Math.round(box[at]); });
    } else {
      say(`${before}Draw a box on the picture, or type it below.`);
    }
    paint();
  };

  // Drawing: the newest box of a frame is asked about.
  let start = null;
  let isAsked = false;
  const soon = () => {
    if (isAsked) return;
    isAsked = true;
    requestAnimationFrame(() => { isAsked = false; answer(); });
  };
  const place = (event) => {
    const { left, top, width, height } = overlay.getBoundingClientRect();
    const within = (at, most) => Math.min(Math.max(at, 0), most);
    return [within((event.clientX - left) / width * overlay.width, overlay.width), within((event.clientY - top) / height * overlay.height, overlay.height)];
  };
  element("stage").addEventListener("pointerdown", (event) => {
    element("stage").setPointerCapture(event.pointerId);
    start = place(event);
  });
  element("stage").addEventListener("pointermove", (event) => {
    if (!start) return;
    const end = place(event);
    const [width, height] = [Math.abs(end[0] - start[0]), Math.abs(end[1] - start[1])];
    if (width < 2 || height < 2) return;
    box = [Math.min(start[0], end[0]), Math.min(start[1], end[1]), width, height];
    soon();
  });
  for (const name of ["pointerup", "pointercancel"]) element("stage").addEventListener(name, () => { start = null; });
  numbers.forEach((input) => input.addEventListener("input", () => {
    const typed = numbers.map((other) => Number(other.value));
    if (typed[2] > 0 && typed[3] > 0) { box = typed; soon(); }
  }));

  element("file").addEventListener("change", async (event) => {
    const [file] = event.target.files;
    if (!file) return;
    stopCamera();
    try {
      const picture = await createImageBitmap(file);
      [box, mask] = [null, null];
      answer(show(picture, picture.width, picture.height));
    } catch (error) {
      say(`${file.name}: cannot be shown: ${error.message}`);
    }
  });
  element("model").addEventListener("change", async (event) => {
    const [file] = event.target.files;
    if (!file) return;
    try {
      open(new Uint8Array(await file.arrayBuffer()), element("crop").value.trim());
      answer(`${file.name} answers now. `);
    } catch (error) {
      say(`${file.name}: ${error.message}`);
    }
  });
  element("save").addEventListener("click", () => {
    if (!mask) return say("There is no mask yet.");
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [image.width, image.height];
    const grey = new ImageData(image.width, image.height);
    mask.forEach((is, at) => grey.data.set([255 * is, 255 * is, 255 * is, 255], 4 * at));
    canvas.getContext("2d").putImageData(grey, 0, 0);
    const link = document.createElement("a");
    [link.href, link.download] = [canvas.toDataURL("image/png"), "mask.png"];
    link.click();
  });

  let stream = null;
  const video = document.createElement("video");
  const stopCamera = () => {
    stream?.getTracks().forEach((track) => track.stop());
    stream = null;
    element("camera").setAttribute("aria-pressed", "false");
  };
  const nextFrame = () => {
    if (!stream) return;
    if (video.videoWidth) { show(video, video.videoWidth, video.videoHeight); answer(); }
    requestAnimationFrame(nextFrame);
  };
  element("camera").addEventListener("click", async () => {
    if (stream) return stopCamera();
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 640 } } });
      video.srcObject = stream;
      await video.play();
      element("camera").setAttribute("aria-pressed", "true");
      nextFrame();
    } catch (error) {
      stopCamera();
      say(`The camera cannot be used: ${error.message}`);
    }
  });

  /** Something to try before a picture is opened. */
  const scene = () => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [640, 400];
    const draw = canvas.getContext("2d");
    const sky = draw.createLinearGradient(0, 0, 0, 400);
    sky.addColorStop(0, "#a8c8e8");
    sky.addColorStop(1, "#6a8f5c");
    draw.fillStyle = sky;
    draw.fillRect(0, 0, 640, 400);
    const shape = (colour, path) => { draw.fillStyle = colour; draw.beginPath(); path(); draw.fill(); };
    shape("#b3372c", () => draw.ellipse(200, 220, 110, 70, 0.3, 0, 7));
    shape("#e8d8b0", () => draw.roundRect(400, 120, 120, 190, 24));
    shape("#2c3e66", () => draw.ellipse(460, 90, 42, 42, 0, 0, 7));
    return canvas;
  };

  const MOST_PIXELS = 2048;
  try {
    open(bytesOf(facts.model), facts.crop);
    show(scene(), 640, 400);
    box = [85, 140, 230, 160];
    answer("A drawn scene, until you open a picture. ");
  } catch (error) {
    say(error.message);
  }
  window.sensei = { run, open, side: () => sensei.sensei_input_side(), mask: () => mask };
})();
