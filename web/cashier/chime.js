// The sound of money: two soft notes.

const NOTES_HZ = [660, 880];
const NOTE_S = 0.16;
const RINGS_S = 0.5;
const LOUDNESS = 0.12;

let context = null;

/** Browsers let a page sound only after somebody has touched it: call it when they do. */
export function prepare() {
  context ??= new AudioContext();
  context.resume();
}

export function chime() {
  if (!context) return;
  NOTES_HZ.forEach((frequency, at) => {
    const [note, volume] = [new OscillatorNode(context, { frequency }), new GainNode(context, { gain: 0 })];
    const start = context.currentTime + at * NOTE_S;
    volume.gain.setValueAtTime(0, start);
    volume.gain.linearRampToValueAtTime(LOUDNESS, start + 0.02);
    volume.gain.exponentialRampToValueAtTime(0.0001, start + RINGS_S);
    note.connect(volume).connect(context.destination);
    note.start(start);
    note.stop(start + RINGS_S);
  });
}
