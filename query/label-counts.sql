-- Rows and examples of each label, by model, site and layer.
-- param layer int optional: only this layer
-- param model text optional: only this model
-- param site text optional: only this site
SELECT model, site, layer, label, count(*) AS rows,
       count(DISTINCT (dataset, split, example_id, example_index, mode, variant)) AS examples
FROM activations
WHERE ($layer::INTEGER IS NULL OR layer = $layer::INTEGER)
  AND ($model::VARCHAR IS NULL OR model = $model::VARCHAR)
  AND ($site::VARCHAR IS NULL OR site = $site::VARCHAR)
GROUP BY model, site, layer, label
ORDER BY model, site, layer, rows DESC, label
