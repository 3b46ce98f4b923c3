// What is cut off or lies outside of the page, as a list of texts. Evaluated in the page.
(() => {
  const page = document.documentElement;
  const width = page.clientWidth;
  const faults = [];
  const name = (element) => {
    const label = element.id ? `#${element.id}` : element.getAttribute("class") ?? "";
    return `<${element.localName} ${label}> "${element.textContent.trim().replace(/\s+/g, " ").slice(0, 40)}"`;
  };
  if (page.scrollWidth > width) faults.push(`the page is ${page.scrollWidth} pixels wide`);
  for (const element of document.body.querySelectorAll("*")) {
    // What only screen readers read is cut off on purpose, and what is inside of a drawing has coordinates of its own.
    if (element.closest(".hidden, .skip") || element.parentElement.closest("svg") || !element.checkVisibility()) continue;
    const box = element.getBoundingClientRect();
    if (box.width === 0 || box.height === 0) continue;
    if (box.left < -1 || box.right > width + 1) {
      faults.push(`${name(element)} reaches from ${Math.round(box.left)} to ${Math.round(box.right)}`);
    }
    const style = getComputedStyle(element);
    // What is typed into a field moves with the caret.
    const isBox = style.display !== "inline" && !["svg", "input"].includes(element.localName);
    if (isBox && element.scrollWidth > element.clientWidth + 1) {
      faults.push(`${name(element)} is wider than its box: ${element.scrollWidth} of ${element.clientWidth}`);
    }
    if (isBox && ["hidden", "clip"].includes(style.overflowY) && element.scrollHeight > element.clientHeight + 1) {
      faults.push(`${name(element)} is higher than its box: ${element.scrollHeight} of ${element.clientHeight}`);
    }
  }
  const bar = [...document.querySelectorAll(".bar > *, .bar search > *")].filter((element) => element.localName !== "search");
  for (const [place, one] of bar.entries()) {
    const a = one.getBoundingClientRect();
    for (const other of bar.slice(place + 1)) {
      const b = other.getBoundingClientRect();
      if (a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1) {
        faults.push(`${name(one)} lies over ${name(other)}`);
      }
    }
  }
  return faults;
})()
