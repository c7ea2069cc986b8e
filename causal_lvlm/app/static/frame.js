// The report in its frame, as high as what stands in it: the page then scrolls as one.
//
// The frame may run its own scripts and reach nothing else; all it can do is tell its height (see
// `causal_lvlm.app.export.embedded`). Whatever else it says is not listened to.

window.addEventListener("message", (event) => {
  const frame = element.querySelector("iframe.report");
  if (!frame || event.source !== frame.contentWindow || !event.data) return;
  const height = Number(event.data.reportHeight);
  if (height > 0) frame.style.height = `${Math.min(Math.max(height, 240), 6000)}px`;
});
