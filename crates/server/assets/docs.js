// The description of the API as a page.

const element = (tag, text, ...children) => {
  const made = document.createElement(tag);
  if (text) made.textContent = text;
  made.append(...children);
  return made;
};

const api = await (await fetch("/openapi.json")).json();

/// The name of a schema, as a reader writes it.
function named(schema) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").at(-1);
  if (schema.oneOf) return schema.oneOf.map(named).join(" or ");
  if (schema.allOf) return schema.allOf.map(named).join(" and ");
  const type = [schema.type].flat().join(" or ");
  return type.startsWith("array") ? `list of ${named(schema.items)}` : type || "any";
}

function table(head, rows) {
  const row = (cells, tag) => element("tr", "", ...cells.map((cell) => element(tag, cell)));
  return element("table", "", row(head, "th"), ...rows.map((cells) => row(cells, "td")));
}

function operation(path, method, described) {
  const summary = element("summary", "");
  const verb = element("span", method.toUpperCase());
  verb.className = "method";
  summary.append(verb, " ", element("code", path), ` ${described.summary ?? ""}`);
  const box = element("details", "", summary);
  if (described.description) box.append(element("p", described.description));
  const { parameters = [], requestBody, responses = {} } = described;
  if (parameters.length) {
    const rows = parameters.map((p) => [p.name, p.in, named(p.schema), p.description ?? ""]);
    box.append(element("h3", "Parameters"), table(["name", "in", "type", "meaning"], rows));
  }
  if (requestBody) {
    const rows = Object.entries(requestBody.content).map(([kind, { schema }]) => [kind, kind.startsWith("image/") ? "the file" : named(schema)]);
    box.append(element("h3", "Body"), table(["Content-Type", "content"], rows));
  }
  const rows = Object.entries(responses).map(([status, { content = {}, description }]) => {
    const [kind] = Object.values(content);
    return [status, named(kind?.schema) || description || ""];
  });
  box.append(element("h3", "Answers"), table(["status", "content"], rows));
  return box;
}

function schema(name, described) {
  const parts = described.allOf ?? [described];
  const required = parts.flatMap((part) => part.required ?? []);
  const rows = parts.flatMap((part) =>
    part.$ref ? [[`all of ${named(part)}`, "", ""]]
      : Object.entries(part.properties ?? {}).map(([key, value]) =>
        [key, named(value) + (required.includes(key) ? "" : ", may be absent"), value.description ?? ""]));
  const box = element("details", "", element("summary", name));
  if (described.description) box.append(element("p", described.description));
  box.append(table(["field", "type", "meaning"], rows));
  return box;
}

const tags = new Map();
for (const [path, methods] of Object.entries(api.paths)) {
  for (const [method, described] of Object.entries(methods)) {
    const tag = described.tags?.[0] ?? "";
    tags.set(tag, [...(tags.get(tag) ?? []), operation(path, method, described)]);
  }
}
const sections = [...tags].flatMap(([tag, operations]) => [element("h2", tag), ...operations]);
const schemas = Object.entries(api.components?.schemas ?? {}).map(([name, described]) => schema(name, described));
document.getElementById("api").replaceChildren(...sections, element("h2", "Contents"), ...schemas);
