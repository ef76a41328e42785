// What the page and the API's documentation share.

/** An element: attributes by name, `on...` as listeners; children are nodes or text. */
export function element(name, attributes = {}, ...children) {
  const svg = ["svg", "rect", "path", "line", "title", "text", "g"].includes(name);
  const made = svg
    ? document.createElementNS("http://www.w3.org/2000/svg", name)
    : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== undefined && value !== null && value !== false) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** Text with `code` in backquotes, as elements. */
export function prose(text) {
  return text.split("`").map((part, i) => (i % 2 ? element("code", {}, part) : part));
}

const KEY = "streamflow-api-key";

export function useKey(key) {
  sessionStorage.setItem(KEY, key);
}

/** The JSON at a path of this API. Throws the problem details of an error as an object. */
export async function get(path) {
  return (await ask(path)).json();
}

/** The text at a path. Throws as `get` does. */
export async function getText(path) {
  return (await ask(path)).text();
}

async function ask(path) {
  const key = sessionStorage.getItem(KEY);
  let answer;
  try {
    answer = await fetch(path, { headers: key ? { "X-API-Key": key } : {} });
  } catch {
    throw { status: 0, detail: "The API does not answer. Is it running?" };
  }
  if (!answer.ok)
    throw await answer.json().catch(() => ({ status: answer.status, detail: answer.statusText }));
  return answer;
}
