// Scales of the chart: from a reward to a place, better right and up, with ticks at round numbers.
const MARGIN = 0.06;

export const axis = (values, maximise, start, end) => {
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const room = MARGIN * (most - least) || 0.5 * Math.abs(least) || 0.5;
  const [low, high] = [least - room, most + room];
  const place = (value) => {
    const part = (value - low) / (high - low);
    return start + (end - start) * (maximise ? part : 1 - part);
  };
  return { place, ticks: ticks(low, high, 5).map(([value, label]) => [place(value), label]), better: maximise ? "higher is better" : "lower is better" };
};

const ticks = (low, high, most) => {
  const size = 10 ** Math.floor(Math.log10((high - low) / most));
  const step = [1, 2, 2.5, 5, 10].map((each) => each * size).find((each) => (high - low) / each <= most);
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9) + (step / size === 2.5 ? 1 : 0));
  const first = Math.ceil(low / step - 1e-9);
  const count = Math.floor(high / step + 1e-9) - first + 1;
  return Array.from({ length: count }, (_, i) => [(first + i) * step, ((first + i) * step).toFixed(digits).replace("-", "−")]);
};
