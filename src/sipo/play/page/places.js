// Where a weight stands among the points that were measured of its method.
const NEAR = 1e-6;

export const apart = (one, other) => one.reduce((sum, share, i) => sum + Math.abs(share - other[i]), 0);

export const nearest = (places, weights) => places.reduce((best, each) => (apart(each, weights) < apart(best, weights) ? each : best));

// `points` have `weights` and `rewards` as arrays. Two objectives: on the line between the neighbours; more: the nearest.
// `kind` is "measured", "drawn", "between" or "nearest".
export const standing = (points, weights) => {
  if (!points?.length) return null;
  if (points[0].weights === null) return drawn(points);
  const near = points.reduce((best, each) => (apart(each.weights, weights) < apart(best.weights, weights) ? each : best));
  if (apart(near.weights, weights) < NEAR) return { ...near, kind: "measured" };
  const [below, above] = weights.length === 2 ? around(points, weights[0]) : [];
  if (!below || !above) return { ...near, kind: "nearest" };
  const part = (weights[0] - below.weights[0]) / (above.weights[0] - below.weights[0]);
  const rewards = below.rewards.map((each, i) => each + part * (above.rewards[i] - each));
  return { weights, rewards, interval: null, kind: "between" };
};

// What no weight steers was drawn once for each weight: its mean, whose interval is not known.
const drawn = (points) => {
  const rewards = points[0].rewards.map((_, i) => points.reduce((sum, each) => sum + each.rewards[i], 0) / points.length);
  return points.length === 1 ? { ...points[0], kind: "measured" } : { weights: null, rewards, interval: null, kind: "drawn", draws: points.length };
};

const around = (points, share) => {
  const order = [...points].sort((a, b) => a.weights[0] - b.weights[0]);
  return [order.findLast((each) => each.weights[0] <= share), order.find((each) => each.weights[0] > share)];
};
